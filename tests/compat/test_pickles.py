"""Nothing that a stranger put into a file of ParlAI's runs, whoever opens it first."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.torch_agent import TorchAgent

from parlai_prosocial.compat import pickles
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import file_sha256


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    monkeypatch.setattr(pickles, "_trusted", False)


@pytest.fixture
def ran(tmp_path):
    """A file that is there as soon as a stranger's code has run."""
    return tmp_path / "ran"


def test_the_pickle_of_these_tests_would_create_its_file(ran):
    pickle.loads(pickle.dumps(CreatesFile(ran))).close()
    assert ran.exists()


def test_pickled_options_do_not_run(tmp_path, ran):
    file = tmp_path / "model.opt"
    file.write_bytes(pickle.dumps(CreatesFile(ran)))
    for read in (Opt.load, Opt.load_init):
        with pytest.raises(UserError, match=r"model\.opt: is not JSON; .* write them anew as JSON"):
            read(str(file))
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"1" * 5000, b"[" * 100_000],
    ids=["empty", "torn", "list", "bytes", "digits", "deep"],
)
def test_torn_options_are_one_line(tmp_path, content):
    file = tmp_path / "model.opt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.opt: ") as caught:
        Opt.load(str(file))
    assert "\n" not in str(caught.value)


def test_options_are_read_as_parlai_reads_them(tmp_path):
    Opt({"model": "x", "override": {"a": 1}, "datapath": "d"}).save(str(tmp_path / "model.opt"))
    (tmp_path / "kept.opt").write_text(json.dumps({"model": "x", "datapath": "d"}))
    for name in ("model.opt", "kept.opt"):
        options = Opt.load(str(tmp_path / name))
        assert isinstance(options, Opt) and options == {"model": "x"}


def test_parlai_reads_no_pickled_options_before_it_knows_our_agents(tmp_path, ran):
    (tmp_path / "model.opt").write_bytes(pickle.dumps(CreatesFile(ran)))
    done = subprocess.run(
        [sys.executable, "-m", "parlai", "interactive", "-mf", str(tmp_path / "model")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ,
    )
    assert done.returncode == 1 and not ran.exists()
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}/model.opt: is not")


class Reader:
    """As little of an agent as ParlAI's loading of weights needs."""

    def load_state_dict(self, states):
        self.states = states

    load = TorchAgent.load


def save_weights(file, **more):
    # As ParlAI's own schedules leave them: numpy's numbers among the state.
    torch.save({"model": {"w": torch.ones(2)}, "rate": np.float64(0.5), **more}, file)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_that_hold_more_than_tensors_are_refused(tmp_path, ran, zipped):
    content = {"model": {"w": torch.ones(2)}, "optimizer": CreatesFile(ran)}
    torch.save(content, tmp_path / "model", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"model: holds no weights, or more than tensors .* add --trust-pickle"
    ):
        Reader().load(str(tmp_path / "model"))
    assert not ran.exists()


def test_a_bare_pickle_is_refused_as_weights(tmp_path, ran):
    (tmp_path / "model").write_bytes(pickle.dumps(CreatesFile(ran)))
    with pytest.raises(UserError, match="model: holds no weights, or more than tensors"):
        Reader().load(str(tmp_path / "model"))
    assert not ran.exists()


def test_weights_of_tensors_and_numbers_are_read(tmp_path):
    save_weights(tmp_path / "model")
    reader = Reader()
    assert reader.load(str(tmp_path / "model"))["rate"] == 0.5
    assert reader.states["w"].tolist() == [1.0, 1.0]


def test_torn_weights_are_one_line(tmp_path):
    save_weights(tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "model").write_bytes(whole[:size])
        with pytest.raises(UserError, match="model: ") as caught:
            Reader().load(str(tmp_path / "model"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [["--trust-pickle"], ["--trust-pickle", "true"]])
def test_trusted_weights_are_opened_and_their_hash_is_said(tmp_path, ran, capsys, given):
    save_weights(tmp_path / "model", history=CreatesFile(ran))
    ParlaiParser(False, True).parse_args(given)
    Reader().load(str(tmp_path / "model"))
    assert ran.exists()
    assert f"{tmp_path}/model, sha256 {file_sha256(tmp_path / 'model')}" in capsys.readouterr().out


def test_a_file_of_options_cannot_grant_trust_to_itself(tmp_path, ran):
    save_weights(tmp_path / "model", history=CreatesFile(ran))
    (tmp_path / "model.opt").write_text('{"model": "repeat_label", "trust_pickle": true}')
    for given in (["-mf", f"{tmp_path}/model"], ["-o", f"{tmp_path}/model.opt"]):
        ParlaiParser(True, True).parse_args(given)
        with pytest.raises(UserError, match="--trust-pickle"):
            Reader().load(str(tmp_path / "model"))
    assert not ran.exists()


def test_other_calls_of_torch_load_stay_as_they_are(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pt")
    assert torch.load(tmp_path / "other.pt", weights_only=True)["w"].sum() == 2
