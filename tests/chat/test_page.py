"""The page in headless Chromium: conversations, by keyboard, by role and name.

Skipped where the machine has no Chromium (Debian's package is enough).
"""

import json
import re
import time

import pytest
from click.testing import CliRunner

from parlai_prosocial.chat.server import ChatApp
from parlai_prosocial.cli.data import data

LABEL = re.compile(r"[✓✗] looks (un)?safe, \d+ %")


def tab_to(tab, name):
    """Press Tab until the button of this name has focus."""
    for _ in range(60):
        tab.keyboard.press("Tab")
        label = tab.evaluate(
            "(({ activeElement: e }) => e.getAttribute('aria-label') ?? e.textContent)(document)"
        )
        if re.match(name, label or ""):
            return
    pytest.fail(f"Tab never reaches {name}")


def test_a_conversation_by_keyboard_alone(visit, pair, tmp_path, settle, say, download):
    tab = visit(pair)
    say(tab, "I told a lie.")
    assert tab.locator("article").count() == 3
    assert tab.locator(".label", has_text=LABEL).count() == 3
    assert re.search(
        r"^(llama|t5) replied: .* It looks (un)?safe, \d+ %", tab.text_content("#heard")
    )
    tab_to(tab, "Regenerate the reply of llama")
    tab.keyboard.press("Enter")
    settle(tab)
    assert "version 2 of 2" in tab.inner_text("article.chosen")
    assert tab.evaluate("document.activeElement.textContent") == "Regenerate"
    tab_to(tab, "Flag the reply of llama")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "reason"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Tab")
    tab.keyboard.type("It preaches.")
    tab.keyboard.press("Tab")
    tab.keyboard.type("Would you like to tell them?")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("article.chosen >> text=Flagged as preachy. It preaches.")
    assert tab.evaluate("document.activeElement.textContent") == "Unflag"
    tab_to(tab, "Go on with this: the reply of t5")
    tab.keyboard.press("Space")
    assert tab.inner_text("article.chosen h3") == "t5, turn 1"
    tab_to(tab, "Edit the reply of t5")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.textContent") == "Edit"
    tab.keyboard.press("Enter")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("That is brave.")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("article.chosen >> text=edited by you")
    tab.focus("#message")
    say(tab, "And now?")

    conversation = json.loads(download(tab, "Export conversation"))
    first, second = conversation["dialog"]
    assert [act["text"] for act in first] == ["I told a lie.", "That is brave."]
    assert len(first[1]["alternatives"]) == 3
    assert second[0]["text"] == "And now?"
    rows = download(tab, "Export training rows")
    (row,) = map(json.loads, rows.splitlines())
    assert row["response"] == "Would you like to tell them?"
    assert row["negative_reasons"] == ["preachy: It preaches."]
    file = tmp_path / "rows.jsonl"
    file.write_text(rows, encoding="utf-8")
    checked = CliRunner().invoke(data, ["check", str(file)])
    assert "1 row, 1 good, 0 bad" in checked.output, checked.output
    assert "Exported 1 rows" in tab.inner_text("#status")


def test_both_models_get_the_history_that_was_chosen(visit, pair, say):
    tab = visit(pair)
    asked = []
    tab.on("request", lambda r: r.url.endswith("/reply") and asked.append(r.post_data_json))
    say(tab, "Hi!")
    tab.get_by_role("button", name="Go on with this: the reply of t5").click()
    chosen = tab.inner_text("article.chosen .text")
    tab.focus("#message")
    say(tab, "Again")
    for request in asked[2:]:
        # White space at the ends is not drawn.
        first, reply, last = request["turns"]
        assert (first, reply.strip(), last) == ("Hi!", chosen.strip(), "Again")
    assert sorted(request["model"] for request in asked) == [0, 0, 1, 1]


def test_replies_stream_and_can_be_stopped(visit, serve_app, open_tiny, settle, texts):
    model = open_tiny(label_truncate=400, beam_min_length=400)
    # At a person's pace: else a tiny model has ended before a slow browser finds the button.
    model.backbone.model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    tab = visit(serve_app(ChatApp([model])).url)
    tab.keyboard.type("Hi!")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("article[aria-busy=true] .text:not(:empty)")
    early = texts(tab)[1]
    tab.wait_for_function(
        "length => document.querySelectorAll('.text')[1].textContent.length > length",
        arg=len(early) + 5,
    )
    assert tab.get_by_role("button", name="Send").is_disabled()
    tab.get_by_role("button", name="Stop").click()
    settle(tab)
    assert tab.inner_text("#status") == "Stopped."
    assert len(texts(tab)[1]) > len(early)
    assert tab.locator("article[aria-busy=true]").count() == 0


def test_a_rewritten_message_gets_new_replies_and_keeps_old_flags(
    visit, pair, settle, say, download, texts
):
    tab = visit(pair)
    say(tab, "Hi!")
    tab.get_by_role("button", name="Flag the reply of llama").click()
    tab.fill("#better", "Hello!")
    tab.get_by_role("button", name="Flag", exact=True).click()
    tab.get_by_role("button", name="Edit your message of turn 1").click()
    tab.fill("#edited", "Good morning!")
    tab.get_by_role("button", name="Save").click()
    tab.locator(".text", has_text="Good morning!").first.wait_for()  # it begins after the click
    settle(tab)
    assert texts(tab)[0] == "Good morning!"
    assert tab.locator("#turns > li").count() == 1
    (row,) = map(json.loads, download(tab, "Export training rows").splitlines())
    assert (row["context"], row["response"]) == (["Hi!"], "Hello!")


def test_a_reload_loses_nothing_and_a_new_conversation_begins_empty(visit, pair, say, texts):
    tab = visit(pair)
    say(tab, "Hi!")
    before = texts(tab)
    tab.reload()
    tab.wait_for_selector("article")
    assert texts(tab) == before
    tab.get_by_role("button", name="New conversation").click()
    assert texts(tab) == []
    assert tab.evaluate("document.activeElement.id") == "message"


def test_the_empty_page_has_examples(visit, pair, settle, texts):
    tab = visit(pair)
    examples = tab.locator("#empty button")
    assert examples.count() >= 3
    words = examples.nth(1).inner_text()
    examples.nth(1).click()
    tab.wait_for_selector("article")
    settle(tab)
    assert texts(tab)[0] == words
    assert not tab.locator("#empty").is_visible()
    assert tab.evaluate("document.activeElement.id") == "message"
    tab.get_by_role("button", name="New conversation").click()
    assert tab.locator("#empty").is_visible()


def test_waiting_is_shown(visit, serve_app, settle, slow):
    model = slow()
    tab = visit(serve_app(ChatApp([model])).url)
    tab.keyboard.type("Hi!")
    tab.keyboard.press("Enter")
    assert tab.locator(".waiting").inner_text().startswith("waiting for the model")
    model.go.set()
    settle(tab)
    assert tab.locator(".waiting").count() == 0


def test_the_reply_that_was_gone_on_with_stays_marked(visit, pair, say):
    tab = visit(pair)
    say(tab, "Hi!")
    tab.get_by_role("button", name="Go on with this: the reply of t5").click()
    tab.focus("#message")
    say(tab, "Again")
    kept = tab.locator("article", has_text="The conversation goes on with this")
    assert kept.locator("h3").all_inner_texts() == ["t5, turn 1", "llama, turn 2"]


def test_a_dialog_that_closes_by_accident_keeps_what_was_typed(visit, pair, say, texts):
    tab = visit(pair)
    say(tab, "Hi!")
    flag = tab.get_by_role("button", name="Flag the reply of llama")
    flag.click()
    tab.select_option("#reason", "preachy")
    tab.fill("#better", "Hello, you!")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Flag the reply of t5").click()  # another one's is its own
    assert tab.input_value("#better") == ""
    tab.keyboard.press("Escape")
    flag.click()
    assert (tab.input_value("#reason"), tab.input_value("#better")) == ("preachy", "Hello, you!")
    assert "still there" in tab.inner_text("#status")
    tab.locator("#flag-dialog").get_by_role("button", name="Cancel").click()  # no accident
    flag.click()
    assert (tab.input_value("#reason"), tab.input_value("#better")) == ("unsafe", "")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Edit your message of turn 1").click()
    tab.fill("#edited", "Good morning")
    tab.keyboard.press("Escape")
    assert texts(tab)[0] == "Hi!"
    tab.get_by_role("button", name="Edit your message of turn 1").click()
    assert tab.input_value("#edited") == "Good morning"
