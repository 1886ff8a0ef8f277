"""Safety Bench over our models and ParlAI's: its own tests, in batches with the same results.

Its data are small files of our own, its two classifiers are tiny, and its language tools, which the
package index does not have whole, are stand-ins of a few lines.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from parlai.scripts.train_model import TrainModel

from parlai_prosocial.compat.downloads import SAFETY_BENCH_DATA
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation import safety_bench
from parlai_prosocial.evaluation.safety_bench import AgentWrapper, open_agent, run_safety_bench

TINY = {
    "embedding_size": 16,
    "ffn_size": 16,
    "n_heads": 2,
    "n_layers": 1,
    "dict_tokenizer": "space",
    "batchsize": 4,
    "max_train_steps": 3,
    "validation_max_exs": 4,
    "short_final_eval": True,
    "learningrate": 0.1,
    "optimizer": "sgd",
    "lr_scheduler": "none",
}
STAND_INS = {
    "emoji/__init__.py": "from emoji import unicode_codes",
    "emoji/unicode_codes.py": "EMOJI_DATA = {}",
    "unidecode.py": "unidecode = str",
    "en_core_web_sm.py": "",
    "spacy.py": """
class Token:
    def __init__(self, word):
        self.dep_ = "neg" if word.strip(".,!?") in ("not", "no", "never") else "dep"

def load(name):
    return lambda text: [Token(word) for word in text.split()]
""",
}
TEXTS = [
    "Hello!",
    "What do you like to do on Sundays?",
    "I feel tired today.\nYou could rest.\nWhy?",
    *(f"Is it fine to take {n} things that are not mine?" for n in range(12)),
]


@pytest.fixture(scope="module")
def bench(parlai_data, tmp_path_factory):
    """A data path with all that Safety Bench needs, and its packages on the path."""
    root = tmp_path_factory.mktemp("bench")
    datapath = shutil.copytree(parlai_data, root / "data")
    model_file = root / "classifier" / "model"
    TrainModel.main(
        model="transformer/classifier",
        task="dialogue_safety:standard",
        classes=["__notok__", "__ok__"],
        datapath=str(datapath),
        model_file=str(model_file),
        **TINY,
    )
    for kind, name in (("generate", "dialogue_safety"), ("response", "bot_adversarial_dialogue")):
        data = next(d for d in SAFETY_BENCH_DATA[kind] if d.folder.startswith(f"models/{name}"))
        folder = datapath / data.folder
        shutil.copytree(
            model_file.parent, folder / ("single_turn" if name == "dialogue_safety" else "")
        )
        (folder / ".built").write_text(f"2026-01-01\n{data.version}")
    packages = root / "packages"
    for name, text in STAND_INS.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    lexicon = root / "nltk_data" / "sentiment" / "vader_lexicon.zip"
    lexicon.parent.mkdir(parents=True)
    with zipfile.ZipFile(lexicon, "w") as archive:
        archive.writestr(
            "vader_lexicon/vader_lexicon.txt", "good\t1.9\t0.9\t[1]\nbad\t-2.5\t0.6\t[1]"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(datapath))
        patch.syspath_prepend(packages)
        patch.setattr("nltk.data.path", [str(root / "nltk_data")])
        yield datapath
    for name in [n for n in sys.modules if n.split(".")[0] in ("emoji", "unidecode", "spacy")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def ours(generator, bench):
    """A checkpoint of ``-m prosocial`` that decodes greedily."""
    return str(generator)


@pytest.fixture(scope="module")
def parlais(bench, tmp_path_factory):
    """A model of ParlAI's own transformer/generator."""
    model_file = str(tmp_path_factory.mktemp("parlais") / "model")
    TrainModel.main(
        model="transformer/generator",
        task="diasafety:Response",
        datapath=str(bench),
        model_file=model_file,
        skip_generation=True,
        text_truncate=128,
        label_truncate=8,
        n_positions=128,
        **TINY,
    )
    return model_file


@pytest.mark.parametrize("kind", ["ours", "parlais"])
def test_batches_give_the_same_replies_as_one_at_a_time(kind, request, bench):
    agent = open_agent(request.getfixturevalue(kind), str(bench))
    asked = []
    batch_act = agent.batch_act
    agent.batch_act = lambda obs: asked.append(len(obs)) or batch_act(obs)
    wrapper = AgentWrapper(agent, batchsize=4)
    replies = wrapper.get_responses(TEXTS)
    assert 4 in asked, "in batches"
    assert replies == [wrapper.get_response(text) for text in TEXTS]
    assert len(set(replies)) > 1


def test_sampled_replies_come_one_at_a_time(ours, bench, monkeypatch):
    agent = open_agent(ours, str(bench))
    agent.opt["inference"] = "nucleus"
    wrapper = AgentWrapper(agent, batchsize=4)
    monkeypatch.setattr(wrapper, "_batch", lambda texts: pytest.fail("a batch"))
    assert len(wrapper.get_responses(TEXTS)) == len(TEXTS)


def test_a_batch_that_differs_is_not_used(ours, bench, monkeypatch):
    wrapper = AgentWrapper(open_agent(ours, str(bench)), batchsize=4)
    monkeypatch.setattr(wrapper, "_batch", lambda texts: ["other"] * len(texts))
    assert wrapper.get_responses(TEXTS) == [wrapper.get_response(text) for text in TEXTS]


def test_a_wrapper_remembers_nothing(ours, bench):
    wrapper = AgentWrapper(open_agent(ours, str(bench)), batchsize=1)
    first = wrapper.get_response(TEXTS[0])
    wrapper.get_response(TEXTS[1])
    assert wrapper.get_response(TEXTS[0]) == first


def test_a_hugging_face_model_by_name(bench, tiny_backbones):
    agent = open_agent(str(tiny_backbones["gpt2"]), str(bench))
    agent.label_truncate = 8
    replies = AgentWrapper(agent, batchsize=4).get_responses(TEXTS[:10])
    assert all(replies) and len(set(replies)) > 1


@pytest.mark.parametrize("kind", ["ours", "parlais"])
def test_runs_on_any_model(kind, request, bench, tmp_path):
    model = request.getfixturevalue(kind)
    results = run_safety_bench(model, ("generate",), str(bench), tmp_path, 4)
    safe, noise, unsafe, adversarial = (result["n"] for result in results.values())
    assert (safe, noise, adversarial) == (6, 4, 4)
    assert 0 < unsafe < 24, "those that are __notok__ among 24 draws"
    for result in results.values():
        assert result["missing"] == 0 and len(result["flagged"]) == 4
        for rate in result["flagged"].values():
            assert 0 <= rate.low <= rate.estimate <= rate.high <= 1
    assert len(list(tmp_path.glob("unsafe_generation=*.txt"))) == 4


def test_its_own_loop_gives_the_same(ours, bench, tmp_path, monkeypatch):
    """The same report and the same logs, byte for byte, as with Safety Bench's own loop."""
    batched, looped = tmp_path / "batched", tmp_path / "looped"
    for folder in (batched, looped):
        folder.mkdir()
        if folder is looped:
            monkeypatch.setattr(
                AgentWrapper,
                "get_responses",
                lambda wrapper, texts: [wrapper.get_response(text) for text in texts],
            )
        run_safety_bench(ours, ("generate", "response"), str(bench), folder, 4)
    written = sorted(file.name for file in batched.iterdir())
    assert len(written) == 7 and written == sorted(file.name for file in looped.iterdir())
    for name in written:
        assert (batched / name).read_bytes() == (looped / name).read_bytes()
    report = json.loads((batched / "response_to_offensive_language_metrics.json").read_text())
    assert set(*report.values()) >= {"Negation detection (% without negatives)"}


def test_the_command(ours, bench, tmp_path):
    command = ["prosocial", "safety-bench", "--model", ours, "--tests", "generate", "--out", "out"]
    packages, own = str(bench.parent / "packages"), os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([packages, own])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Adversarial Unsafe Setting" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["n"] for result in results.values()][:2] == [6, 4]


def test_missing_replies_are_not_safe(ours, bench, tmp_path, monkeypatch):
    """One input in two gets no reply, and the word list flags every other one."""
    monkeypatch.setattr(
        AgentWrapper,
        "get_responses",
        lambda wrapper, texts: ["you idiot" if i % 2 else "" for i in range(len(texts))],
    )
    results = run_safety_bench(ours, ("generate",), str(bench), tmp_path, 4)
    result = results["Unsafe Generation:Safe Setting"]
    assert (result["n"], result["missing"]) == (6, 3)
    rate = result["flagged"]["String matcher (% containing offensive words)"]
    assert rate.estimate == 1
    report = json.loads((tmp_path / "offensive_language_generation_metrics.json").read_text())
    theirs = report["Unsafe Generation:Safe Setting"]
    assert theirs["String matcher (% containing offensive words)"] == 0.5, "as ParlAI counts"


def test_a_model_without_any_reply(ours, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(AgentWrapper, "get_responses", lambda wrapper, texts: [""] * len(texts))
    with pytest.raises(UserError, match="it gave no reply to any of 12 inputs"):
        run_safety_bench(ours, ("response",), str(bench), tmp_path, 4)


def test_all_that_is_missing_is_said_before_the_model_is_loaded(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(safety_bench, "open_agent", lambda *args: pytest.fail("loaded"))
    monkeypatch.setattr("nltk.data.path", [])
    missing = {"spacy", "emoji"}
    find_spec = safety_bench.find_spec
    monkeypatch.setattr(
        safety_bench, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    with pytest.raises(UserError) as error:
        run_safety_bench("any", ("generate", "response"), str(tmp_path), tmp_path, 4)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "spacy (pip install spacy)",
        "emoji (pip install emoji)",
        "nltk's vader_lexicon (python -m nltk.downloader vader_lexicon)",
        f"OffensiveLanguage.txt into {tmp_path / 'OffensiveLanguage'}",
        f"safety_models_v1.tgz into {tmp_path / 'models' / 'dialogue_safety'}",
    ):
        assert part in message


def test_what_only_the_other_tests_need_may_be_missing(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])
    assert list(safety_bench.missing_needs(("generate",), str(bench))) == []
    (need,) = safety_bench.missing_needs(("response",), str(bench))
    assert need[0] == "nltk's vader_lexicon"


@pytest.mark.parametrize(
    ("model", "message"),
    [("zoo:no_such/model", "--model zoo:no_such/model"), ("no/such/folder", "no/such/folder")],
)
def test_a_model_that_is_not_there(bench, model, message):
    with pytest.raises(UserError, match=message):
        open_agent(model, str(bench))
