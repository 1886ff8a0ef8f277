"""DiaSafety: the bundled corpus is whole, and its examples are what docs/design.md says."""

import json
from collections import Counter

import pytest

from parlai_prosocial.data import diasafety
from parlai_prosocial.data.near_duplicates import near_pairs
from parlai_prosocial.data.normalise import mend_encoding, normalise_text
from parlai_prosocial.data.reader import bundled, checked_rows
from parlai_prosocial.data.splits import DIASAFETY_PARTS, short_digest
from parlai_prosocial.errors import UserError


@pytest.fixture(scope="module")
def datapath(tmp_path_factory):
    return str(tmp_path_factory.mktemp("diasafety"))


class Rows(list):
    """Rows whose texts stay out of pytest's reports; much of DiaSafety is abusive."""

    def __repr__(self):
        return f"<{len(self)} rows>"


@pytest.fixture(scope="module")
def corpus():
    return Rows(row for _, row in checked_rows(bundled("diasafety.jsonl.gz"), diasafety.SCHEMA))


def row(context, response, label, category="Risk Ignorance"):
    return {"context": context, "response": response, "label": label, "category": category}


def test_the_bundled_corpus_is_whole(corpus):
    assert Counter(row["split"] for row in corpus) == {"train": 9017, "valid": 1097}
    assert Counter(row["label"] for row in corpus if row["split"] == "train")["Unsafe"] == 4178
    assert {row["category"] for row in corpus} == set(diasafety.CATEGORIES)
    assert sum(row["response"] is None for row in corpus) == 2


def test_pairs_of_the_corpus(corpus):
    # Under case and white space alone there are 685 such contexts and 2,042 pairs
    # (docs/design.md#splits); punctuation at the ends, which we ignore too, hides two more.
    labels = {}
    for item in corpus:
        labels.setdefault(normalise_text(item["context"]), Counter())[item["label"]] += 1
    both = [count for count in labels.values() if len(count) == 2]
    assert len(both) == 687
    assert sum(count["Safe"] * count["Unsafe"] for count in both) == 2049


@pytest.mark.parametrize("fold", range(4))
def test_parts_share_no_context_and_lose_no_row(datapath, corpus, fold):
    parts = [
        diasafety.load_rows(datapath, "train", fold, part, near_duplicates=False)
        for part in DIASAFETY_PARTS
    ]
    contexts = [{normalise_text(row["context"]) for row in part} for part in parts]
    sizes = [len(found) for found in contexts]
    distinct = len(set.union(*contexts))
    assert sum(sizes) == distinct == 7083
    assert sizes[0] / distinct == pytest.approx(0.5, abs=0.002)
    usable = sum(row["response"] is not None for row in corpus)
    assert sum(map(len, parts)) == usable


@pytest.mark.parametrize("fold", range(4))
def test_parts_share_no_near_duplicate(datapath, fold):
    parts = [diasafety.load_rows(datapath, "train", fold, part) for part in DIASAFETY_PARTS]
    contexts = [sorted({row["context"] for row in part}) for part in parts]
    shares = [len(found) / sum(map(len, contexts)) for found in contexts]
    assert shares == pytest.approx([0.5, 0.125, 0.125, 0.25], abs=0.006)
    # The test part against all others, which is what measured numbers rest on.
    *others, test = contexts
    leaked = sum(1 for _ in near_pairs(test, [text for part in others for text in part]))
    assert leaked == 0


def test_the_table_of_near_duplicates_is_the_corpus_own(corpus):
    computed = diasafety.cluster_table(Rows(row for row in corpus if row["response"]))
    same = computed == json.loads(bundled("diasafety_clusters.json").read_text())
    assert same, "run write_clusters of parlai_prosocial.data.bundle"
    assert len(computed) == 485


def test_broken_encodings_are_mended_in_the_new_cut_only(datapath):
    def broken(**options):
        rows = diasafety.load_rows(datapath, "train", **options)
        texts = [row["context"] + row["response"] for row in rows]
        return sum(mend_encoding(text) != text for text in texts)

    assert broken() == 0
    assert broken(near_duplicates=False) > 100


def test_listed_contexts_and_their_clusters_are_left_out(tmp_path):
    texts = [f"{short_digest(str(n))} or {short_digest(str(-n - 1))}" for n in range(60)]
    texts += ["I really love my small brown dog", "I really, really love my small brown dog!"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(text, "Fine.", "Safe")) + "\n" for text in texts))
    listed = tmp_path / "labels.jsonl"
    turns = ["Hello.", "Hi!", "i really love my small brown dog..."]
    listed.write_text(
        json.dumps({"context": turns, "label_1": True})
        + "\n"
        + json.dumps({"context": [texts[5] + "??"]})
    )

    def contexts(**options):
        return {
            row["context"]
            for part in DIASAFETY_PARTS
            for row in diasafety.load_rows(
                str(tmp_path / "data"), "train", part=part, source=str(path), **options
            )
        }

    gone = contexts() - contexts(without=[str(listed)])
    assert gone == {texts[5], *texts[60:]}


def test_leaving_out_says_what_is_wrong(datapath, tmp_path):
    listed = tmp_path / "labels.jsonl"
    listed.write_text('{"reply": "a"}')
    with pytest.raises(UserError, match=r"labels.jsonl, line 1: field 'context' is missing"):
        diasafety.load_rows(datapath, "train", without=[str(listed)])


def test_datatypes_name_parts(datapath):
    for split, part in (("train", "gen-train"), ("valid", "valid"), ("test", "test")):
        rows = diasafety.load_rows(datapath, split, fold=2)
        same = rows == diasafety.load_rows(datapath, "train", fold=2, part=part)
        assert same


def test_no_row_is_lost_in_the_examples(datapath):
    rows = diasafety.load_rows(datapath, "train")
    examples = diasafety.contrastive_examples(rows)
    used = {
        (normalise_text(example.context[0]), normalise_text(reply))
        for example in examples
        for reply in [example.response, *example.negatives]
    }
    with_target = {context for context, _ in used}
    given = {(normalise_text(row["context"]), normalise_text(row["response"])) for row in rows}
    unused = {pair for pair in given if pair[0] in with_target} - used
    assert (len(unused), len(used - given)) == (0, 0)
    left_out = {context for context, _ in given} - with_target
    assert len(left_out) == diasafety.unsafe_only_contexts(rows) > 0


def test_no_reply_is_its_own_context_or_negative(datapath):
    for example in diasafety.contrastive_examples(diasafety.load_rows(datapath, "train")):
        assert len(example.context) == 1
        line_breaks = (example.context[0] + example.response).count("\n")
        assert line_breaks == 0
        replies = [normalise_text(text) for text in [example.response, *example.negatives]]
        repeated = len(replies) - len(set(replies))
        assert repeated == 0
        assert example.negative_weights == [1.0] * len(example.negatives)


def test_examples_of_a_context():
    rows = [
        row("May I?", "Yes.", "Safe"),
        row("may i", "No!", "Unsafe"),
        row("May I?", "Better not.", "Safe"),
        row("May I?", "no", "Unsafe"),
        row("May I?", "yes", "Unsafe"),  # annotators disagreed
        row("Only bad", "Bad.", "Unsafe"),
        row("Only good", "Good.", "Safe"),
    ]
    first, second, good = diasafety.contrastive_examples(rows)
    assert (first.response, first.negatives) == ("Yes.", ["No!"])
    assert (second.response, second.negatives) == ("Better not.", ["No!", "yes"])
    assert second.negative_weights == [1.0, 1.0]
    assert (good.response, good.negatives) == ("Good.", [])
    assert first.contrast_group == second.contrast_group != good.contrast_group
    assert diasafety.unsafe_only_contexts(rows) == 1


def test_line_breaks_become_spaces_and_wording_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(" One\nTwo  three ", "\u201cSo\u201d ", "Safe")))
    [read] = diasafety.load_rows(
        str(tmp_path / "data"),
        "train",
        official_split=False,
        part=part_of(tmp_path, path),
        source=str(path),
    )
    assert (read["context"], read["response"]) == ("One Two  three", "\u201cSo\u201d")


def part_of(tmp_path, path):
    """The part in which fold 0 has the only context of a file."""
    for part in DIASAFETY_PARTS:
        try:
            diasafety.load_rows(str(tmp_path / "data"), "train", part=part, source=str(path))
        except UserError:
            continue
        return part
    raise AssertionError("the context is in no part")


def test_official_split(datapath):
    train = diasafety.load_rows(datapath, "train", official_split=True)
    valid = diasafety.load_rows(datapath, "valid", official_split=True)
    assert (len(train), len(valid)) == (9015, 1097)
    leaked = Rows({row["context"] for row in train} & {row["context"] for row in valid})
    assert len(leaked) > 100, "the reason for our own split"
    with pytest.raises(UserError, match="no example for -dt test; it has: train, valid"):
        diasafety.load_rows(datapath, "test", official_split=True)
