"""Wheel and editable installs beside a ParlAI that is already there, resolved by its own rules."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest

from parlai_prosocial.compat.installation import INSTALLED_WITHOUT_DEPENDENCIES

REPOSITORY = Path(__file__).parents[1]
MAPPED = {
    "agents/prosocial": "parlai/agents/prosocial",
    "tasks/mic": "parlai/tasks/mic",
    "tasks/prosocial": "parlai/tasks/prosocial",
    "tasks/diasafety": "parlai/tasks/diasafety",
    "tasks/self_dialogue": "parlai/tasks/self_dialogue",
    "zoo/prosocial": "parlai/zoo/prosocial",
    "startup": "parlai_internal/scripts",
}

RESOLVE_BY_PARLAI = """
import importlib, sys
from parlai.core.loader import load_agent_module, load_teacher_module
print(load_agent_module("prosocial").__name__)
for task in ("mic", "prosocial", "diasafety", "self_dialogue", "prosocial_dialog"):
    print(task, load_teacher_module(task).__name__)
print(importlib.import_module("parlai.zoo.prosocial.smollm2_135m").download.__name__)
print(sys.modules["parlai_prosocial"].__file__)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What a build reads, copied so that it leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("parlai_prosocial", "agents", "startup", "tasks", "zoo"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(sources))
    (path,) = folder.glob("parlai_prosocial-*.whl")
    return path


@pytest.fixture
def environment(tmp_path):
    """An environment with its own ParlAI, which borrows every other package from this one."""
    outer = Path(sysconfig.get_path("purelib"))
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    (inner,) = folder.glob("lib/python*/site-packages")
    for path in (outer / "parlai", outer / f"parlai-{metadata.version('parlai')}.dist-info"):
        shutil.copytree(path, inner / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    # A folder named in a .pth file is searched, but its own .pth files are not read: the editable
    # install of the environment that runs this test stays out.
    (inner / "outer.pth").write_text(f"{outer}\n")
    return folder


def pip(*arguments: str, python: Path | str = sys.executable) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def resolve(environment: Path, cwd: Path) -> list[str]:
    done = subprocess.run(
        [environment / "bin" / "python", "-W", "ignore", "-c", RESOLVE_BY_PARLAI],
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def expected_names() -> list[str]:
    return [
        "ProsocialAgent",
        *[f"{task} DefaultTeacher" for task in ("mic", "prosocial", "diasafety", "self_dialogue")],
        "prosocial_dialog DefaultTeacher",
        "download",
    ]


def files_below(folder: str, suffix: str = "") -> set[str]:
    return {
        str(path.relative_to(REPOSITORY / folder))
        for path in (REPOSITORY / folder).rglob(f"*{suffix}")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_what_parlai_and_we_look_for(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, installed in MAPPED.items():
        for module in files_below(source, ".py"):
            assert f"{installed}/{module}" in names
    folders = ("data/bundled", "recipes", "zoo/entries", "chat/page")
    folders += ("evaluation/report", "evaluation/suites")
    for folder in (f"parlai_prosocial/{name}" for name in folders):
        for file in files_below(folder):
            assert f"{folder}/{file}" in names


def test_wheel_leaves_the_folders_of_others_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "parlai",
        "parlai_internal",
        "parlai_prosocial",
    }
    ours = (*(f"{installed}/" for installed in MAPPED.values()), "parlai_prosocial")
    assert all(name.startswith(ours) for name in names)


def test_requirements_leave_parlais_pins_out(wheel):
    (path,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA"))
    required = message_from_bytes(zipfile.ZipFile(wheel).read(path)).get_all("Requires-Dist")
    assert "setuptools<81" in required
    assert not any(line.lower().startswith("parlai") for line in required)


def test_wheel_resolves_beside_parlai_and_leaves_it_whole(environment, wheel, tmp_path):
    python = environment / "bin" / "python"
    before = parlai_files(environment)
    pip("install", "--no-deps", "--no-index", str(wheel), python=python)
    *names, origin = resolve(environment, tmp_path)
    assert names == expected_names()
    assert Path(origin).is_relative_to(environment)
    version = subprocess.run(
        [environment / "bin" / "prosocial", "--version"], capture_output=True, text=True
    )
    assert "prosocial, version" in version.stdout

    pip("uninstall", "-y", "parlai-prosocial", python=python)
    assert parlai_files(environment) == before


def parlai_files(environment: Path) -> set[Path]:
    return {
        path
        for path in environment.glob("lib/python*/site-packages/parlai/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_editable_install_resolves_beside_parlai(environment, sources, tmp_path):
    pip(
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-e",
        str(sources),
        python=environment / "bin" / "python",
    )
    *names, origin = resolve(environment, tmp_path)
    assert names == expected_names()
    assert Path(origin).is_relative_to(sources)


def test_every_locked_version_has_the_hashes_of_its_files():
    def lower(name):
        return re.sub("[_.]+", "-", name).lower()

    pins = re.findall(r"^([\w.-]+)==(\S+)$", text_of("constraints.txt"), re.MULTILINE)
    expected = {lower(name): version for name, version in pins if name != "torch"}
    hashed = text_of("constraints-hashed.txt")
    entry = re.compile(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
    found = {lower(name): version for name, version, _ in entry.findall(hashed)}
    assert found == expected | INSTALLED_WITHOUT_DEPENDENCIES  # else: make lock
    assert hashed.count("==") == len(found)


def text_of(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")
