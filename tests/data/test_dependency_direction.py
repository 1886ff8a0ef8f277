"""data -> losses, models -> agents -> evaluation -> cli: nothing imports against the stream."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parlai_prosocial

PACKAGE = Path(parlai_prosocial.__file__).parent


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


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_imports_are_found_at_any_depth():
    source = "import os.path\ndef f():\n    from torch import nn\n"
    assert imported_modules(source) == {"os.path", "torch", "torch.nn"}


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        (
            "data",
            ["torch", "parlai", "losses", "models", "zoo", "agents", "evaluation", "mining", "cli"],
        ),
        ("losses", ["parlai", "data", "models", "agents", "evaluation", "mining", "cli"]),
        ("models", ["parlai", "zoo", "agents", "evaluation", "mining", "cli"]),
        ("zoo", ["parlai", "agents", "evaluation", "mining", "peers", "cli"]),
        ("agents", ["evaluation", "mining", "peers", "cli"]),
        ("peers", ["evaluation", "mining", "cli"]),
        ("evaluation", ["mining", "peers", "cli"]),
        ("mining", ["peers", "cli"]),
        ("chat", ["evaluation", "mining", "peers", "cli"]),
    ],
)
def test_no_import_against_the_stream(folder, forbidden):
    third_party = {"torch", "parlai"}
    packages = [name if name in third_party else f"parlai_prosocial.{name}" for name in forbidden]
    files = list((PACKAGE / folder).rglob("*.py"))
    assert files
    for file in files:
        for module in imported_modules(file.read_text(encoding="utf-8")):
            wrong = [package for package in packages if within(module, package)]
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
