"""Rooms import one way only, modules never in a circle, and what must stay light does."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import parlai_prosocial

PACKAGE = Path(parlai_prosocial.__file__).parent
ROOMS = [
    "errors",
    "util",
    "data",
    "losses",
    "models",
    "compat",
    "zoo",
    "export",
    "agents",
    "training",
    "engines",
    "judges",
    "mining",
    "evaluation",
    "rounds",
    "experiments",
    "cards",
    "chat",
    "api",
    "cli",
]
"""Each may import those before it. Recipes hold no code."""


def imported_modules(source: str) -> set[str]:
    """Every module that a file imports, at its top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this package"
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def import_graph(package: Path) -> dict[str, set[str]]:
    """Module -> the package's own modules that it imports, anywhere in its source."""
    files = {
        ".".join([package.name, *file.relative_to(package).with_suffix("").parts]): file
        for file in package.rglob("*.py")
        if file.name != "__init__.py"
    }
    return {
        name: imported_modules(file.read_text(encoding="utf-8")) & files.keys()
        for name, file in files.items()
    }


def room_of(module: str) -> str:
    return module.split(".")[1]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_imports_are_found_at_any_depth():
    source = "import os.path\ndef f():\n    from torch import nn\n"
    assert imported_modules(source) == {"os.path", "torch", "torch.nn"}


def test_a_circle_would_be_found(tmp_path):
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "one.py").write_text("from made_up.two import a\n")
    (package / "two.py").write_text("def f():\n    from made_up import one\n")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(package)).prepare()


def test_no_module_imports_itself_through_others():
    TopologicalSorter(import_graph(PACKAGE)).prepare()


def test_every_room_is_in_the_order():
    found = {room_of(module) for module in import_graph(PACKAGE)}
    assert found == set(ROOMS)


def test_rooms_import_one_way_only():
    wrong = [
        f"{module} imports {other}"
        for module, others in sorted(import_graph(PACKAGE).items())
        for other in sorted(others)
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [("data", ["torch", "parlai"]), ("losses", ["parlai"]), ("models", ["parlai"])],
)
def test_rooms_that_know_no_parlai_or_torch(room, forbidden):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for file in files:
        for module in imported_modules(file.read_text(encoding="utf-8")):
            wrong = [package for package in forbidden if within(module, package)]
            assert not wrong, f"{file.relative_to(PACKAGE)} imports {module}"


def test_losses_import_torch_alone():
    for file in (PACKAGE / "losses").rglob("*.py"):
        for module in imported_modules(file.read_text(encoding="utf-8")):
            top = module.split(".")[0]
            own = within(module, "parlai_prosocial.losses")
            assert top == "torch" or top in sys.stdlib_module_names or own, f"{file}: {module}"


def test_importing_the_data_modules_loads_nothing_heavy():
    modules = [file.stem for file in (PACKAGE / "data").glob("*.py") if file.stem != "__init__"]
    code = "".join(f"import parlai_prosocial.data.{module}\n" for module in sorted(modules))
    code += "import sys; print({'torch', 'parlai', 'datasets', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
