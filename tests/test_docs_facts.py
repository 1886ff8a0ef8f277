"""What README and docs say of the code is so: tables, links, the names of files and tests."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
LINKED = [
    *PAGES,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "parlai_prosocial" / "recipes").glob("*/README.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """The anchors that a Markdown page's headings have on GitHub."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_links_to_every_page():
    linked = set(LINK.findall(PAGES[0].read_text(encoding="utf-8")))
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in linked, page.name


def test_flag_table_is_complete():
    from parlai.core.params import ParlaiParser

    from parlai_prosocial.agents import options

    parser = ParlaiParser(False, False)
    options.add_arguments(parser, None)
    groups = [g for g in parser._action_groups if g.title in ("Prosocial", "Contrast")]
    defaults = {a.option_strings[0]: a.default for g in groups for a in g._group_actions}
    text = (DOCS / "flags.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(table) == set(defaults)
    for flag, default in defaults.items():
        if flag != "--system-prompt":
            assert table[flag].strip("`").lower() == str(default).lower(), flag


def test_task_table_is_complete():
    from importlib import import_module

    from parlai.core.loader import load_teacher_module
    from parlai.tasks.prosocial.base import CorpusTeacher

    text = (DOCS / "tasks-and-data.md").read_text(encoding="utf-8")
    section = text.split("| task |")[1].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines()[2:]]
    named = {task for cell in first_cells for task in re.findall(r"`(.*?)`", cell)}
    teachers = {load_teacher_module(task) for task in named}
    for corpus in ("prosocial", "mic", "diasafety", "self_dialogue"):
        module = import_module(f"parlai.tasks.{corpus}.agents")
        for name, kind in vars(module).items():
            is_task = isinstance(kind, type) and issubclass(kind, CorpusTeacher)
            if is_task and not name.startswith("_") and kind.__module__ == module.__name__:
                # A task without a variant stands for the one that it is a plain subclass of.
                assert kind in teachers or any(issubclass(t, kind) for t in teachers), name


def test_own_data_columns_are_those_that_are_read():
    from parlai_prosocial.data.own import SCHEMA

    text = (DOCS / "tasks-and-data.md").read_text(encoding="utf-8")
    section = text.split("| column |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in section.splitlines()[2:]]
    named = {name for cell in cells for name in re.findall(r"`(.*?)`", cell)}
    assert named == {*SCHEMA.fields, "split"}


def test_every_room_is_described():
    package = REPOSITORY / "parlai_prosocial"
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    section = text.split("## Rooms")[1].split("\n## ")[0]
    for room in [*package.iterdir(), *(package / "evaluation").iterdir()]:
        if room.is_dir() and list(room.glob("*.py")):
            assert f"| `{room.name}/` |" in section, room.name


def test_links_lead_somewhere():
    for page in LINKED:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if target.startswith(("https://", "http://")):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors_of(file), f"{page.name}: {target}"


def test_what_the_code_says_of_the_docs_is_there():
    """A comment that names a page, or a section of it as docs/PAGE.md#SECTION, can be followed."""
    found = 0
    for folder in ("parlai_prosocial", "tests", "benchmarks", "agents", "startup", "tasks", "zoo"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            for name, anchor in re.findall(r"\bdocs/([a-z-]+)\.md(?:#([a-z-]+))?", text):
                found += 1
                assert (DOCS / f"{name}.md").is_file(), f"{file}: docs/{name}.md"
                assert not anchor or anchor in anchors_of(DOCS / f"{name}.md"), f"{file}: {anchor}"
    assert found >= 12


def test_every_test_that_guarantees_name_is_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (DOCS / "guarantees.md").read_text("utf-8"))
    assert len(named) >= 80
    for file, test in named:
        source = (REPOSITORY / "tests" / file).read_text("utf-8")
        assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{file}::{test}"
