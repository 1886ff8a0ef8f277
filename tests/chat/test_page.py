"""The page in headless Chromium: by keyboard, by role and name, and against hostile messages.

Skipped where the machine has no Chromium (Debian's package is enough).
"""

import json
import re
import threading
import time
from dataclasses import dataclass, field

import pytest
import uvicorn
from click.testing import CliRunner

from parlai_prosocial.chat import server
from parlai_prosocial.chat.server import ChatApp
from parlai_prosocial.chat.talking import Written
from parlai_prosocial.cli.data import data

WAIT = 60_000
LABEL = re.compile(r"[✓✗] looks (un)?safe, \d+ %")


@pytest.fixture
def visit(browser, serve_app):
    """``visit(url, **context)``: an open tab that has asked nobody else and failed nowhere.

    It is closed before the server ends, of which the page would tell.
    """
    contexts, faults = [], []

    def open_tab(url, **settings):
        context = browser.new_context(accept_downloads=True, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(WAIT)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and faults.append(line.text))
        tab.on("dialog", lambda dialog: dialog.accept())
        tab.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "blob:")) or faults.append(request.url)
            ),
        )
        tab.goto(url)
        tab.wait_for_selector("#about:not(:empty)")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def pair(serve_app, open_tiny, classifier):
    """The address of a page with two models and a classifier."""
    return serve_app(ChatApp([open_tiny(), open_tiny("t5")], classifier, "judge")).url


def settle(tab):
    tab.wait_for_selector("#send:not([disabled])")


def say(tab, text):
    """Type into what has focus, the message box, and wait for the replies."""
    assert tab.evaluate("document.activeElement.id") == "message"
    tab.keyboard.type(text)
    tab.keyboard.press("Enter")
    settle(tab)


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


def download(tab, button):
    with tab.expect_download() as caught:
        tab.get_by_role("button", name=button).click()
    with open(caught.value.path(), encoding="utf-8") as file:
        return file.read()


def texts(tab):
    return tab.locator(".text").all_inner_texts()


def test_a_conversation_by_keyboard_alone(visit, pair, tmp_path):
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


def test_both_models_get_the_history_that_was_chosen(visit, pair):
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


def test_hostile_messages_are_only_text(visit, pair):
    tab = visit(pair)
    script = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    say(tab, script)
    assert texts(tab)[0] == script
    assert tab.locator("#turns script, #turns img").count() == 0
    say(tab, "\u202eevil \u2066\u05e9\u05dc\u05d5\u05dd")
    block = tab.locator(".mine .text").nth(1)
    assert block.get_attribute("dir") == "auto"
    # The override ends with its block: what stands below is as it was.
    assert block.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"
    tab.fill("#message", "x" * 60_000)
    tab.focus("#message")
    tab.keyboard.press("Enter")
    settle(tab)
    long = tab.locator(".mine .text").nth(2)
    assert len(long.text_content()) == 60_000
    assert long.evaluate("e => e.clientHeight") < 500
    long.focus()
    assert long.evaluate("e => document.activeElement === e")
    assert tab.title() == "prosocial chat"
    assert tab.locator("article").count() == 9
    content = json.loads(download(tab, "Export conversation"))
    assert content["dialog"][0][0]["text"] == script


def test_replies_stream_and_can_be_stopped(visit, serve_app, open_tiny):
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


def test_a_rewritten_message_gets_new_replies_and_keeps_old_flags(visit, pair):
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


def test_a_failing_model_says_so_and_can_be_asked_again(visit, serve_app, open_tiny, monkeypatch):
    model = open_tiny()
    generate = model.backbone.generate

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.backbone, "generate", fail)
    tab = visit(serve_app(ChatApp([model])).url)
    say(tab, "Hi!")
    assert "No reply: llama: out of memory" in tab.inner_text("#status")
    say(tab, "Hello?")
    assert "no reply to continue from" in tab.inner_text("#status")
    assert tab.input_value("#message") == "Hello?"
    monkeypatch.setattr(model.backbone, "generate", generate)
    tab.get_by_role("button", name="Regenerate the reply of llama, turn 1").click()
    settle(tab)
    assert texts(tab)[1]


def test_a_reload_loses_nothing_and_a_new_conversation_begins_empty(visit, pair):
    tab = visit(pair)
    say(tab, "Hi!")
    before = texts(tab)
    tab.reload()
    tab.wait_for_selector("article")
    assert texts(tab) == before
    tab.get_by_role("button", name="New conversation").click()
    assert texts(tab) == []
    assert tab.evaluate("document.activeElement.id") == "message"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
def test_it_fits_every_width_and_can_be_read(visit, pair, width, scheme):
    tab = visit(pair, viewport={"width": width, "height": 740}, color_scheme=scheme)
    say(tab, "W" * 200)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tops = tab.locator(".replies article").evaluate_all(
        "found => found.map((e) => e.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width > 704)
    # The last reply's buttons are in sight, above the message box that stays in place.
    flag = tab.get_by_role("button", name="Flag the reply of t5").bounding_box()
    assert flag["y"] + flag["height"] <= tab.locator("#composer").bounding_box()["y"]
    for selector in (
        "h1",
        "#about",
        ".mine .text",
        ".mine .label",
        ".kept",
        ".replies h3",
        "#send",
    ):
        assert contrast(tab, selector) >= 4.5, selector
    for control in tab.get_by_role("button").all():
        box = control.bounding_box()
        assert box["height"] >= 24 and box["x"] + box["width"] <= width


def contrast(tab, selector):
    """WCAG's contrast ratio of an element's text against what lies behind it."""
    front, back = tab.eval_on_selector(
        selector,
        """(element) => {
          const front = getComputedStyle(element).color;
          let back = "rgba(0, 0, 0, 0)";
          for (let e = element; e && back === "rgba(0, 0, 0, 0)"; e = e.parentElement) {
            back = getComputedStyle(e).backgroundColor;
          }
          return [front, back];
        }""",
    )

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([luminance(front), luminance(back)])
    return (high + 0.05) / (low + 0.05)


def test_what_a_screen_reader_is_told(visit, pair):
    tab = visit(pair)
    say(tab, "Hi!")
    assert tab.get_by_role("textbox", name="Your message").count() == 1
    assert tab.get_by_role("status").count() == 2
    assert tab.get_by_role("alert").count() == 1
    assert tab.get_by_role("list").count() >= 1
    for role in ("banner", "main"):
        assert tab.get_by_role(role).count() == 1
    names = [
        b.get_attribute("aria-label") or b.inner_text() for b in tab.get_by_role("button").all()
    ]
    assert len(set(names)) == len(names)
    pressed = tab.get_by_role("button", name=re.compile("^Go on with this"))
    assert [b.get_attribute("aria-pressed") for b in pressed.all()] == ["true", "false"]
    tab.get_by_role("button", name="Flag the reply of llama").click()
    assert tab.get_by_role("dialog", name="Flag this reply").count() == 1
    for name in ("What is wrong with it?", "In your own words", "What would have been"):
        assert tab.get_by_label(name).count() == 1


def test_the_empty_page_has_examples(visit, pair):
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


@dataclass
class Slow:
    """A model whose replies come when they are let go, and the labels of a classifier."""

    name: str = "slow"
    go: threading.Event = field(default_factory=threading.Event)

    def reply(self, turns, again=False):
        self.go.wait(60)
        yield Written("Hello.", [])


def test_waiting_is_shown(visit, serve_app):
    model = Slow()
    tab = visit(serve_app(ChatApp([model])).url)
    tab.keyboard.type("Hi!")
    tab.keyboard.press("Enter")
    assert tab.locator(".waiting").inner_text().startswith("waiting for the model")
    model.go.set()
    settle(tab)
    assert tab.locator(".waiting").count() == 0


@pytest.mark.parametrize(
    ("label", "kind", "words"),
    [
        ("__ok__", "safe", "✓ looks safe, 75 %"),
        ("__notok__", "unsafe", "✗ looks unsafe, 75 %"),
        ("__probably_needs_caution__", "caution", "! probably needs caution, 75 %"),
        ("<b>own", "", "• labelled <b>own, 75 %"),
    ],
)
def test_labels_in_plain_words(visit, serve_app, monkeypatch, label, kind, words):
    model = Slow()
    model.go.set()
    monkeypatch.setattr(server, "judge", lambda *_: {"label": label, "probability": 0.75})
    tab = visit(serve_app(ChatApp([model], object(), "judge")).url)
    say(tab, "Hi!")
    shown = tab.locator(".replies .label")
    assert shown.inner_text() == words
    assert shown.get_attribute("class") == f"label {kind}"
    tab.get_by_text("What the labels are worth").click()
    assert tab.get_by_text("It errs in both directions").is_visible()


def test_the_reply_that_was_gone_on_with_stays_marked(visit, pair):
    tab = visit(pair)
    say(tab, "Hi!")
    tab.get_by_role("button", name="Go on with this: the reply of t5").click()
    tab.focus("#message")
    say(tab, "Again")
    kept = tab.locator("article", has_text="The conversation goes on with this")
    assert kept.locator("h3").all_inner_texts() == ["t5, turn 1", "llama, turn 2"]


def test_a_dialog_that_closes_by_accident_keeps_what_was_typed(visit, pair):
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


def test_a_message_too_long_for_the_server_is_kept_and_not_sent(visit, pair):
    tab = visit(pair)
    tab.fill("#message", "\u00e9" * 32_001)
    tab.get_by_role("button", name="Send").click()
    assert tab.inner_text("#status") == "Your message is longer than 64,000 bytes; shorten it."
    assert len(tab.input_value("#message")) == 32_001 and texts(tab) == []


def test_the_end_of_the_server_is_told_and_its_return(browser, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = Slow()
    model.go.set()
    listening = server.listen(0)
    port = listening.getsockname()[1]

    def start(listening):
        config = uvicorn.Config(ChatApp([model]).starlette(), log_level="critical", lifespan="off")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        return running, thread

    def end(running, thread):
        running.should_exit = running.force_exit = True
        thread.join(30)

    first = start(listening)
    tab = browser.new_page()
    tab.set_default_timeout(WAIT)
    try:
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("#about:not(:empty)")
        say(tab, "Hi!")
        end(*first)
        tab.keyboard.type("And now?")
        tab.keyboard.press("Enter")
        settle(tab)
        assert "No reply: the server has ended" in tab.inner_text("#status")
        ended = tab.inner_text("#ended")
        assert ended.startswith("The server has ended.") and f"--port {port}" in ended
        assert tab.locator("#ended").bounding_box()["y"] >= 0  # in sight
        tab.get_by_role("button", name="Export conversation").click()
        tab.wait_for_selector("#status >> text=Not exported: the server has ended")

        second = start(server.listen(port))
        tab.wait_for_selector("#ended:empty", state="attached")
        tab.get_by_role("button", name="Regenerate").click()
        settle(tab)
        assert texts(tab) == ["Hi!", "Hello.", "And now?", "Hello."]
        end(*second)
    finally:
        tab.close()


def test_at_200_percent_there_is_room_to_read(visit, pair):
    tab = visit(pair, viewport={"width": 640, "height": 360}, device_scale_factor=2)
    for words in ("Hi!", "Again"):
        say(tab, words)
    box = lambda selector: tab.locator(selector).bounding_box()  # noqa: E731
    export, composer = box("#toolbar"), box("#composer")
    assert export["y"] == 0  # in sight, though the page is scrolled
    assert tab.evaluate("scrollY") > 100
    assert composer["y"] + composer["height"] <= 360
    assert composer["y"] - export["height"] >= 0.65 * 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, axe, pair, scheme):
    tab = visit(pair, color_scheme=scheme)
    assert axe(tab) == []
    say(tab, "Hi!")
    tab.get_by_text("What the labels are worth").click()
    tab.get_by_role("button", name="Flag the reply of llama").click()
    assert axe(tab) == []
    tab.keyboard.press("Escape")
    tab.evaluate("document.getElementById('ended').textContent = 'The server has ended.'")
    assert axe(tab) == []
