"""``-o NAME`` without ParlAI's own files of presets."""

import json

import pytest

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.presets import PRESETS
from parlai_prosocial.errors import UserError


@pytest.fixture(autouse=True)
def mended(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    compat.apply()


def parsed(*flags):
    from parlai.core.params import ParlaiParser

    return ParlaiParser(True, True).parse_args(list(flags))


def test_a_preset_acts_and_flags_come_before_it():
    opt = parsed("-m", "transformer/generator", "--topk", "7", "-o", "gen/meena")
    assert (opt["inference"], opt["topk"], opt["beam_size"]) == ("topk", 7, 20)


def test_presets_are_combined():
    opt = parsed("-o", "arch/blenderbot_3B,gen/blenderbot")
    assert (opt["model"], opt["n_decoder_layers"]) == ("transformer/generator", 24)
    assert (opt["inference"], opt["beam_min_length"]) == ("beam", 20)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_made_of_flags(name):
    model = PRESETS[name].get("model", "transformer/generator")
    assert set(PRESETS[name]) <= set(parsed("-m", model))


def test_own_presets_come_first(tmp_path):
    folder = tmp_path / ".parlai" / "opt_presets" / "gen"
    folder.mkdir(parents=True)
    (folder / "meena.opt").write_text(json.dumps({"topk": 5}))
    assert parsed("-m", "transformer/generator", "-o", "gen/meena")["topk"] == 5


@pytest.mark.parametrize("name", ["gen/seeker_lm", "gen/meena,gen/none", "no.opt"])
def test_what_is_missing_is_named(name):
    with pytest.raises(UserError, match=rf"^-o {name.split(',')[-1]}: .*gen/meena"):
        parsed("-m", "transformer/generator", "-o", name)


def test_an_error_in_reading_a_file_is_no_missing_preset(monkeypatch, tmp_path):
    from parlai.core.opt import Opt

    def fail(cls, file):
        raise TypeError("of the reader's own")

    (tmp_path / "mine.opt").write_text("{}")
    monkeypatch.setattr(Opt, "load", classmethod(fail))
    with pytest.raises(TypeError, match="of the reader's own"):
        Opt.load_init(str(tmp_path / "mine.opt"))


def test_what_pkg_resources_cannot_read_has_presets_too(monkeypatch):
    import pkg_resources

    def refuse(*arguments):
        raise NotImplementedError("Can't perform this operation for unregistered loader type")

    monkeypatch.setattr(pkg_resources, "resource_exists", refuse)
    assert parsed("-m", "transformer/generator", "-o", "gen/meena")["topk"] == 40


def test_a_namespace_package_has_presets_too(monkeypatch, tmp_path):
    (tmp_path / "parlai_fb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert parsed("-m", "transformer/generator", "-o", "gen/meena")["topk"] == 40
    with pytest.raises(UserError, match=r"^-o gen/none: "):
        parsed("-m", "transformer/generator", "-o", "gen/none")


def test_an_optimizer_is_no_preset():
    assert parsed("-m", "transformer/generator", "-opt", "adam")["optimizer"] == "adam"
