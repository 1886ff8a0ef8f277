"""The page in headless Chromium: how it looks at every width, and what a screen reader is told."""

import re

import pytest

from parlai_prosocial.chat import server
from parlai_prosocial.chat.server import ChatApp


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
def test_it_fits_every_width_and_can_be_read(visit, pair, width, scheme, say):
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


def test_at_200_percent_there_is_room_to_read(visit, pair, say):
    tab = visit(pair, viewport={"width": 640, "height": 360}, device_scale_factor=2)
    for words in ("Hi!", "Again"):
        say(tab, words)
    box = lambda selector: tab.locator(selector).bounding_box()  # noqa: E731
    export, composer = box("#toolbar"), box("#composer")
    assert export["y"] == 0  # in sight, though the page is scrolled
    assert tab.evaluate("scrollY") > 100
    assert composer["y"] + composer["height"] <= 360
    assert composer["y"] - export["height"] >= 0.65 * 360


@pytest.mark.parametrize(
    ("label", "kind", "words"),
    [
        ("__ok__", "safe", "✓ looks safe, 75 %"),
        ("__notok__", "unsafe", "✗ looks unsafe, 75 %"),
        ("__probably_needs_caution__", "caution", "! probably needs caution, 75 %"),
        ("<b>own", "", "• labelled <b>own, 75 %"),
    ],
)
def test_labels_in_plain_words(visit, serve_app, monkeypatch, label, kind, words, say, slow):
    model = slow()
    model.go.set()
    monkeypatch.setattr(server, "judge", lambda *_: {"label": label, "probability": 0.75})
    tab = visit(serve_app(ChatApp([model], object(), "judge")).url)
    say(tab, "Hi!")
    shown = tab.locator(".replies .label")
    assert shown.inner_text() == words
    assert shown.get_attribute("class") == f"label {kind}"
    tab.get_by_text("What the labels are worth").click()
    assert tab.get_by_text("It errs in both directions").is_visible()


def test_what_a_screen_reader_is_told(visit, pair, say):
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, axe, pair, scheme, say):
    tab = visit(pair, color_scheme=scheme)
    assert axe(tab) == []
    say(tab, "Hi!")
    tab.get_by_text("What the labels are worth").click()
    tab.get_by_role("button", name="Flag the reply of llama").click()
    assert axe(tab) == []
    tab.keyboard.press("Escape")
    tab.evaluate("document.getElementById('ended').textContent = 'The server has ended.'")
    assert axe(tab) == []
