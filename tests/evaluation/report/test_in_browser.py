"""The report in headless Chromium: no fault, no request, searchable, and fit for a phone.

Skipped where the machine has no Chromium (Debian's package is enough).
"""

import pytest

from parlai_prosocial.evaluation.report.page import render


@pytest.fixture(scope="module")
def address(hostile_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(*hostile_run), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def visit(browser, address):
    """``visit(**context)``: the report in a tab that has asked nobody and failed nowhere."""
    contexts, faults = [], []

    def open_tab(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda line: faults.append(line.text))
        tab.on("dialog", lambda dialog: faults.append(dialog.message) or dialog.dismiss())
        tab.on("request", lambda asked: asked.url == address or faults.append(asked.url))
        tab.goto(address)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert faults == []


def test_one_click_shows_what_differs(visit):
    tab = visit()
    assert tab.title() == "Safety of tuned, base"  # no text has run
    first = tab.locator("#differing .card").first
    assert not first.is_visible()
    tab.locator("#samples > .warning > summary").click()
    assert first.is_visible()
    texts = first.locator(".text")
    assert texts.count() == 4 and all(text.is_visible() for text in texts.all())


def test_filters(visit):
    tab = visit()
    tab.locator("#samples > .warning > summary").click()
    cards = tab.locator("#samples .card")
    total = cards.count()
    count = tab.locator("#find-count")
    assert count.text_content() == f"{total} of {total} shown"

    def shown():
        number = tab.locator("#samples .card:visible").count()
        assert count.text_content() == f"{number} of {total} shown"
        return number

    tab.get_by_label("Search").fill("CASUAL-7 onmouseover")
    assert 1 <= shown() <= 2  # drawn evenly, and perhaps where they differ too
    tab.get_by_label("Search").fill("")
    tab.get_by_role("combobox", name="Suite").select_option("casual")
    of_suite = tab.locator("#samples [data-suite=casual]").count()
    assert 0 < shown() == of_suite < total
    tab.get_by_role("combobox", name="Label of the context").select_option("<b>Risk")
    assert 0 < shown() < of_suite
    tab.get_by_role("combobox", name="Label of the context").select_option("")
    tab.get_by_role("combobox", name="Model").select_option("tuned")
    assert tab.locator("[data-model=base]:visible").count() == 0
    assert tab.locator("[data-model=tuned]:visible").count() == of_suite
    tab.get_by_label("only replies that a judge flags").check()
    assert 0 < shown() < of_suite
    flagged = tab.locator("[data-model=tuned][data-flagged]:visible").count()
    assert flagged == shown() == tab.locator("blockquote:visible").count()


def test_without_scripts_all_is_there_but_the_filters(visit):
    tab = visit(java_script_enabled=False)
    tab.locator("#samples > .warning > summary").click()
    assert tab.locator("#drawn .card:visible").count() == 80
    assert not tab.locator(".find").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, axe, scheme):
    tab = visit(color_scheme=scheme)
    assert axe(tab) == []
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert axe(tab) == []


def test_on_a_phone_nothing_is_wider_than_the_screen(visit):
    tab = visit(viewport={"width": 360, "height": 740})
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    # Tables are wider, and are moved in their own frames.
    assert tab.evaluate(
        "[...document.querySelectorAll('details table')].every((t) => t.closest('.wide[tabindex]'))"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    tab = visit(color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.evaluate(CONTRAST) == []


CONTRAST = """
() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = parts(colour).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest("title, desc, [hidden]")) continue;
    const style = getComputedStyle(e);
    const text = e.closest("svg") ? style.fill : style.color;
    const [a, b] = [luminance(text), luminance(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) weak.push([e.tagName, e.className, text, ground(e)].join());
  }
  return [...new Set(weak)];
}
"""


def test_prints_what_is_closed_on_the_screen(visit):
    tab = visit(color_scheme="dark")
    opened = "document.querySelectorAll('details[open]').length"
    tab.evaluate(f"addEventListener('beforeprint', () => {{ document.title = {opened}; }})")
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
    assert tab.title() == str(tab.locator("details").count())
    assert tab.evaluate(opened) == 0  # and all is as it was
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Without scripts too.
    assert tab.locator("#tables-behind table").first.is_visible()
