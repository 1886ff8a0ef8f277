"""The report as HTML: safe with any text, whole, small, and readable by a machine."""

import base64
import hashlib
import re
from itertools import pairwise

import lxml.html
import pytest

from parlai_prosocial.evaluation.report import page
from parlai_prosocial.evaluation.report.samples import LONGEST, disagreements
from parlai_prosocial.evaluation.results.tables import table_cells


@pytest.fixture(scope="module")
def text(hostile_run):
    return page.render(*hostile_run)


@pytest.fixture(scope="module")
def tree(text):
    return lxml.html.document_fromstring(text)


def test_nothing_is_asked_of_the_network(text, tree):
    assert not tree.xpath("//@src | //@style | //link | //iframe | //object | //form | //base")
    assert all(href.startswith("#") for href in tree.xpath("//@href"))
    assert "url(" not in text and "@import" not in text
    [policy] = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for name in ("style", "script"):
        [element] = tree.xpath(f"//{name}")
        digest = hashlib.sha256(element.text.encode("utf-8")).digest()
        assert f"{name}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_hostile_texts_are_escaped_and_cut(text, tree, hostile_run):
    assert text.count("<script") == 1 and "<img" not in text
    assert not tree.xpath("//@onerror | //@onmouseover")
    assert text.startswith("<!DOCTYPE html>")
    assert "{{ 7 * 7 }}" in text  # no template of a text is filled
    assert "&lt;/script&gt;&lt;script&gt;" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    shown = [element.text_content() for element in tree.xpath("//*[@class='text']")]
    assert max(map(len, shown)) < LONGEST + 60
    assert any("[cut here; 100,000 characters in the log]" in t for t in shown)
    # Texts from right to left, and marks that turn the direction, end where their element does.
    assert all(e.get("dir") == "auto" for e in tree.xpath("//*[@class='text']"))
    assert "unicode-bidi: isolate" in text
    assert any("(empty reply)" in e.text_content() for e in tree.xpath("//blockquote"))


def test_what_models_said_is_one_click_behind_a_warning(tree):
    texts = tree.xpath("//*[@class='text']")
    assert texts
    for element in texts:
        [closed] = [d for d in element.iterancestors("details") if d.get("open") is None]
        assert closed.find("summary").text_content().startswith("Content warning")
        assert element.getparent().tag in ("li", "blockquote")
    for heading in tree.xpath("//article/h4"):
        assert "owned" not in heading.text_content()


def test_at_first_sight_there_are_findings_only(text):
    tree = lxml.html.document_fromstring(text)
    for closed in tree.xpath("//details"):
        for part in closed.xpath("./*[not(self::summary)]"):
            closed.remove(part)
    for script in tree.xpath("//script"):
        script.drop_tree()
    lines = [line.strip() for line in tree.find("body").itertext() if line.strip()]
    scorecard = tree.get_element_by_id("scorecard")
    beside = set(lines) - {line.strip() for line in scorecard.itertext()}
    assert len(" ".join(beside).split()) < 60  # the title and what the parts behind are called
    assert not scorecard.xpath(".//p")


def test_a_reader_finds_everything(text, hostile_run):
    summary, _ = hostile_run
    tree = lxml.html.document_fromstring(text)
    body = tree.text_content()
    assert summary["command"] in body
    assert re.search(
        r"unsafe: tuned [\d.]+ points lower than base, judged by hf@1 on adversarial \[[\d., ]+\]: "
        "more than chance in this test",
        body,
    )
    for name in summary["suites"]:
        assert summary["suites"][name]["sha256"] in body
    for table in summary["tables"]:
        for cell in {cell for row in table_cells(table) for cell in row}:
            assert cell in body
    captions = [caption.text_content() for caption in tree.xpath("//table/caption")]
    assert "Each suite as a whole, then by label and by source" in captions
    assert any(caption.startswith("Confusion matrix: 60 texts") for caption in captions)
    assert tree.xpath("//desc[contains(., 'is right in')]")  # the calibration curve
    assert "label <b>Risk" in body
    assert "80 contexts" in body


def test_tables_and_plots_speak_without_colour(tree):
    assert tree.get("lang") == "en" and tree.xpath("//title")
    for table in tree.xpath("//table"):
        assert table.find("caption") is not None
        assert all(head.get("scope") in ("col", "row") for head in table.iter("th"))
        assert len({len(row) for row in table.iter("tr")}) == 1
    for plot in tree.xpath("//figure/svg[@role='img']"):
        labels = plot.get("aria-labelledby").split()
        assert [e.get("id") for e in plot if e.tag in ("title", "desc")] == labels
    for bar in tree.xpath("//svg[@class='rate']"):  # the numbers stand beside it
        assert bar.get("aria-hidden") == "true"
        assert re.search(r"\d+\.\d %\s+\[", bar.getparent().text_content())
    for verdict in tree.xpath("//*[@class='judgements']/li"):
        assert verdict.text_content().strip()[0] in "✗✓?"
    ids = tree.xpath("//@id")
    assert len(set(ids)) == len(ids)
    levels = [int(element.tag[1]) for element in tree.xpath("//h1|//h2|//h3|//h4")]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_where_they_differ_the_most_different_come_first(run_of):
    _, log = run_of(count=40)
    cards, count = disagreements(log, 6, lambda suite, axis, judge: True)
    assert len(cards) == 6 < count
    gaps = []
    for card in cards:
        sides = [{j["axis"]: j for j in reply["judgements"]} for reply in card["replies"]]
        differing = [a for a in sides[0] if sides[0][a]["unfit"] != sides[1][a]["unfit"]]
        assert differing and any(reply["flagged"] for reply in card["replies"])
        gaps.append(sum(abs(sides[0][a]["p_unsafe"] - sides[1][a]["p_unsafe"]) for a in differing))
    assert gaps == sorted(gaps, reverse=True)


def test_all_models_stand_side_by_side(run_of):
    summary, log = run_of(count=40, models=("tuned", "other", "base"))
    tree = lxml.html.document_fromstring(page.render(summary, log))
    for card in tree.xpath("//*[@id='differing']/article"):
        assert card.xpath(".//blockquote/@data-model") == ["tuned", "other", "base"]


def test_a_judge_that_tells_nothing_ranks_nothing(run_of):
    summary, log = run_of(count=40)
    sees_nothing = {"suite": "adversarial", "axis": "unsafe", "judge": "hf@1"}
    summary["misordered"] = [sees_nothing | {"worse": "a", "better": "b"}]
    for record in log[::3]:  # these agree by the one that tells something
        for of_axis in ("agreement", "over-caution"):
            for judgement in record["judgements"].get(of_axis, {}).values():
                judgement["p_unsafe"] = 0.1
    cards, _ = disagreements(log, 100, page._tells(summary))
    believed = []
    for card in cards:
        sides = [
            {j["axis"]: j["unfit"] for j in reply["judgements"] if j["tells"]}
            for reply in card["replies"]
        ]
        believed.append(sides[0] != sides[1])
    assert 0 < sum(believed) < len(believed)
    assert believed == sorted(believed, reverse=True)
    assert "which tells nothing here" in page.render(summary, log)


def test_it_stays_small(run_of, monkeypatch):
    summary, log = run_of(count=600, texts=["\"<&>'" * 500])
    text = page.render(summary, log)
    assert 500_000 < len(text.encode("utf-8")) <= page.MOST_BYTES
    assert " of 1200 contexts, evenly spread" in text


def test_what_is_not_there_is_said(run_of):
    summary, log = run_of(unsafe=False, models=("alone",))
    text = page.render(summary, log)
    assert "What is unsafe was not judged: give a --judge" in text
    assert "Only alone was looked at" in text
    assert "agreement <span" in text.partition("<tbody>")[0]
    assert "No confusion matrix and no calibration curve for preachy-rules@2" in text
    assert "judged differently" not in text

    for record in log:
        record["reply"] = None
        record["judgements"] = {a: dict.fromkeys(js) for a, js in record["judgements"].items()}
    text = page.render(summary, log)
    assert "(no reply)" in text and ": missing" in text


def test_a_doubtful_judge_has_no_bars(run_of):
    summary, log = run_of()
    entry = {"suite": "adversarial", "axis": "unsafe", "judge": "hf@1"}
    summary["misordered"] = [entry | {"worse": "people's unfit reply", "better": "a fitting one"}]
    tree = lxml.html.document_fromstring(page.render(summary, log))
    scorecard = tree.get_element_by_id("scorecard")
    said = scorecard.xpath(".//li")[0].text_content()
    assert said.startswith("unsafe, judged by hf@1 on adversarial: no verdict, for hf@1 does not")
    rows = scorecard.xpath(".//tbody/tr")
    assert [len(row.xpath(".//svg")) for row in rows] == [1, 1]  # over-caution's
    assert "no rate: hf@1 does not tell" in rows[0].text_content()


def test_a_judge_that_says_yes_or_no_has_no_curve(run_of):
    summary, log = run_of()
    summary["judge_quality"][0]["calibration"] = [{"count": 60, "confidence": 1, "accuracy": 0.9}]
    text = page.render(summary, log)
    assert "No calibration curve: this judge says only yes or no." in text


def test_sentinels_that_nobody_judged_are_not_called_in_order(run_of):
    summary, log = run_of()
    assert "Sentinels were not judged" in page.render(summary, log)
    summary["sentinels"] = [{"suite": "casual", "sentinel": "always agreement", "rates": {}}]
    assert "No judge misorders the sentinels" in page.render(summary, log)
