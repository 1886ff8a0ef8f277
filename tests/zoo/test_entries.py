"""The entries that ship: complete, true to their files, and no dead link among them."""

import json
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from parlai_prosocial.cards.bundle import LIMIT
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.training.recipe import recipe_folder, step_arguments
from parlai_prosocial.zoo.bases import minilm, smollm2
from parlai_prosocial.zoo.entry import ENTRIES, PREFIX, entry_names, find_entry, read_entry
from parlai_prosocial.zoo.install import MAKERS, verify_bundled

TO_BUILD = {"dialogpt_medium", "blenderbot_400m", "t5_base", "smollm2_1_7b", "smollm2_135m_rot"}


def entries(*kinds):
    return [e for e in map(find_entry, entry_names()) if not kinds or e.kind in kinds]


def test_the_bases_and_what_is_to_be_built_are_there():
    assert {entry.name for entry in entries("package", "hub")} == set(MAKERS)
    assert {entry.name for entry in entries("build")} == TO_BUILD


def test_every_entry_says_what_it_is():
    for entry in entries():
        assert entry.path == f"{PREFIX}{entry.name}/model"
        assert entry.licence and entry.needs and entry.what
        assert entry.agent in ("prosocial", "prosocial/classifier")
        if entry.kind in ("bundled", "build"):
            assert entry.base and entry.data and entry.commands and entry.builds
        for corpus in entry.data:
            assert set(corpus) == {"name", "source", "licence"}


def test_the_bases_are_those_of_the_code():
    package, hub = find_entry("smollm2_135m"), find_entry("smollm2_135m_hub")
    assert package.source == {
        "package": f"{smollm2.PACKAGE}=={smollm2.PACKAGE_VERSION}",
        "file": smollm2.GGUF_NAME,
        "sha256": smollm2.GGUF_SHA256,
    }
    assert hub.source == {
        "repository": smollm2.HUB_REPO,
        "revision": smollm2.HUB_REVISION,
        "file": "model.safetensors",
        "sha256": smollm2.HUB_WEIGHTS_SHA256,
    }
    assert [file.sha256 for file in hub.files] == [smollm2.HUB_WEIGHTS_SHA256]


def test_what_is_bundled_is_there_and_small():
    """Weights lie beside their entry, with its hashes, and nothing lies there without one."""
    expected = {ENTRIES / f"{name}.json" for name in entry_names()}
    for entry in entries("bundled"):
        verify_bundled(entry)
        expected |= {entry.folder / file.name for file in entry.files}
        expected.add(entry.folder / entry.log)
        assert entry.metrics and entry.training
        known = {"zoo:prosocial/smollm2_135m": find_entry("smollm2_135m").files[0].sha256}
        known["zoo:prosocial/mpnet_base"] = find_entry("mpnet_base").files[0].sha256
        known[minilm.PACKAGE] = minilm.WEIGHTS_SHA256
        assert entry.base["sha256"] == known[entry.base["name"]]
    found = {path for path in ENTRIES.rglob("*") if path.is_file()}
    assert found == expected
    assert sum(path.stat().st_size for path in found) <= LIMIT


def test_commands_can_be_run(tmp_path, monkeypatch):
    """Each parses as it stands; a recipe's steps parse as ParlAI's own command."""
    from parlai.scripts.train_model import TrainModel

    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path))
    for entry in entries():
        for command in entry.commands:
            program, *words = shlex.split(command)
            if program == "python":
                assert (Path(__file__).parents[2] / words[0]).is_file()
                continue
            if program == "prosocial":
                group = click.Context(cli)
                script = cli.get_command(group, words[0])
                given = script.make_context(words[0], words[1:]).params
                if words[0] != "train":
                    continue
                recipe = recipe_folder(given["recipe"])
                assert given["recipe"] == entry.recipe
                steps = [
                    step_arguments(recipe, step, given["out"], given["base"], given["settings"])
                    for step in ("step1", "step2")
                ]
            else:
                assert (program, words[0]) == ("parlai", "train_model")
                steps = [words[1:]]
            for arguments in steps:
                opt = TrainModel.setup_args().parse_args(arguments)
                assert opt["model"] == entry.agent
                assert opt["model_file"] in entry.builds
                name, revision = entry.base["name"], entry.base.get("revision", "main")
                assert opt["backbone"] == (name if revision == "main" else f"{name}@{revision}")


def test_parlai_finds_a_module_for_every_entry():
    for name in entry_names():
        module = import_module(f"parlai.zoo.prosocial.{name}")
        assert module.download.__name__ == "download"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "borrowed"},
        {"name": "another"},
        {"unheard_of": 1},
        {"files": [{"name": "../model", "sha256": "0"}]},
        {"files": [{"name": "/model", "sha256": "0"}]},
        {"files": [{"name": "a\\..\\b", "sha256": "0"}]},
        {"files": [{"sha256": "0"}]},
    ],
)
def test_a_broken_entry_is_named(tmp_path, change):
    content = json.loads((ENTRIES / "smollm2_135m.json").read_text())
    file = tmp_path / "smollm2_135m.json"
    file.write_text(json.dumps(content))
    assert read_entry(file).name == "smollm2_135m"
    file.write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=r"smollm2_135m\.json: not a zoo entry"):
        read_entry(file)
    del content["licence"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="licence: Field required; reinstall"):
        read_entry(file)


@pytest.mark.parametrize(
    "name", ["t5_base", "zoo:prosocial/t5_base", "zoo:prosocial/t5_base/model"]
)
def test_an_entry_by_its_names(name):
    assert find_entry(name).name == "t5_base"


@pytest.mark.parametrize("name", ["t5", "../entries/t5_base", ""])
def test_an_unknown_name_shows_the_known_ones(name):
    with pytest.raises(UserError, match=r"no such model in the zoo; there are .*zoo:prosocial/t5"):
        find_entry(name)
