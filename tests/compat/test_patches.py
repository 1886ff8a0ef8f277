"""Each mend of ParlAI, shown by what fails without it."""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.errors import UserError


@pytest.fixture(autouse=True)
def mended():
    compat.apply()


def test_apply_is_done_once():
    from parlai.core.dict import DictionaryAgent

    before = DictionaryAgent.txt2vec
    compat.apply()
    assert DictionaryAgent.txt2vec is before


def test_default_scheduler_lowers_the_learning_rate():
    from parlai.nn.lr_scheduler import ReduceOnPlateauLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceOnPlateauLRScheduler(
        optimizer, patience=1, decay=0.5, warmup_updates=-1, warmup_rate=1e-4
    )
    for loss in (1.0, 2.0, 2.0):
        scheduler.valid_step({"loss": loss})
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_scheduler_is_left_alone_where_torch_takes_verbose(monkeypatch):
    from parlai.nn import lr_scheduler

    class Original:
        def __init__(self):
            pass

    class WithVerbose(ReduceLROnPlateau):
        def __init__(self, optimizer, mode="min", verbose=False):
            pass

    original = Original.__init__
    monkeypatch.setattr(lr_scheduler, "ReduceOnPlateauLRScheduler", Original)
    monkeypatch.setattr(torch.optim.lr_scheduler, "ReduceLROnPlateau", WithVerbose)
    compat.mend_plateau_scheduler()
    assert Original.__init__ is original


def test_dictionary_gives_arrays(tmp_path):
    from parlai.core.dict import DictionaryAgent

    dictionary = DictionaryAgent({"dict_file": None, "dict_tokenizer": "split"})
    dictionary.add_token("good")
    dictionary.add_token("morning")
    as_list = dictionary.txt2vec("good morning")
    as_array = dictionary.txt2vec("good morning", np.ndarray)
    assert isinstance(as_array, np.ndarray)
    assert as_array.tolist() == as_list


def test_rouge_needs_no_nltk_files(monkeypatch):
    import nltk
    from parlai.core.metrics import RougeMetric

    monkeypatch.setattr(nltk.data, "path", [])
    compat._use_words_alone_where_punkt_is_missing.cache_clear()
    unigrams, bigrams, longest = RougeMetric.compute_many("my cat sat", ["my cat lay down"])
    assert unigrams.value() == pytest.approx(2 / 4)
    assert bigrams.value() == pytest.approx(1 / 3)
    assert longest.value() == pytest.approx(2 / 4)


def test_gpt2_cached_decoding_agrees_with_full_decoding(tmp_path):
    """After a reordering of the beams, as beam search does at every step."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=32, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0
    )
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    # ParlAI imports this module after ours, so the mend has to wait for it.
    gpt2 = importlib.import_module("parlai.agents.hugging_face.gpt2")
    model = gpt2.HFGPT2Model(
        {
            "model_name": str(tmp_path),
            "add_special_tokens": False,
            "add_start_token": False,
            "no_cuda": True,
        },
        SimpleNamespace(null_idx=0, start_idx=1, end_idx=2),
    ).eval()

    contexts = torch.tensor([[3, 4, 5], [6, 7, 8]])
    beams = torch.tensor([1, 0])
    start = torch.tensor([[1], [1]])
    grown = torch.tensor([[1, 9], [1, 10]])
    with torch.no_grad():
        _, state = model.decoder(start, contexts, None)
        state = model.reorder_decoder_incremental_state(state, beams)
        cached, _ = model.decoder(grown, contexts[beams], state)
        full, _ = model.decoder(grown[:, 1:], contexts[beams], None)
    torch.testing.assert_close(cached[:, -1], full[:, -1], atol=1e-5, rtol=1e-5)


def test_prosocial_dialog_takes_batches(parlai_data):
    """Its teachers' clones count examples too."""
    from parlai.core.params import ParlaiParser
    from parlai.core.worlds import create_task

    for task, episodes in (("prosocial_dialog", 4), ("prosocial_dialog:ProsocialDialogSafety", 6)):
        opt = ParlaiParser(True, True).parse_kwargs(
            task=task,
            model="fixed_response",
            fixed_response="a",
            datatype="valid",
            datapath=str(parlai_data),
        )
        clone = create_task(opt, []).get_task_agent().clone()
        assert clone.num_episodes() == episodes and clone.num_examples() == 6


def test_twitter_finds_emoji_in_the_table_of_emoji_2(tmp_path):
    """With stand-ins for emoji 2, which dropped the table that ParlAI imports, and unidecode."""
    package = tmp_path / "emoji" / "unicode_codes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('EMOJI_DATA = {"*": {"en": ":star:", "status": 2}}')
    (tmp_path / "emoji" / "__init__.py").write_text("from emoji import unicode_codes")
    (tmp_path / "unidecode.py").write_text("unidecode = str")
    # In a process of its own: other tests have stand-ins for the same modules.
    code = (
        "from parlai_prosocial.compat import patches as compat; compat.apply()\n"
        "from parlai.tasks.twitter import build; print(build.replace_emoji('*'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout == " @star@ \n", done.stderr


@pytest.mark.parametrize(
    ("gpu", "no_cuda", "mended"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_workers_use_gloo_where_they_use_no_gpu(monkeypatch, gpu, no_cuda, mended):
    script, begun = "parlai.scripts.multiprocessing_train", []
    importlib.import_module(script)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(compat, "use_gloo", lambda: begun.append("gloo"))
    monkeypatch.setitem(compat._parlai_workers, script, lambda *args: begun.append(args))
    opt = {"no_cuda": no_cuda}
    sys.modules[script].multiprocess_train(1, opt, 61337)
    assert begun == ["gloo"] * mended + [(1, opt, 61337)]


def test_two_processes_train_on_a_cpu(tmp_path):
    """The stock command trains and then evaluates in two processes."""
    words = ["__null__", "__start__", "__end__", "__unk__", "yes", "no"]
    (tmp_path / "words.dict").write_text("".join(f"{word}\t1\n" for word in words))
    command = (
        "parlai multiprocessing_train -t diasafety:Response -m transformer/generator "
        "--dict-file words.dict --n-layers 1 --embedding-size 8 --n-heads 1 --ffn-size 8 "
        "--distributed-world-size 2 -bs 2 --max-train-steps 2 --validation-max-exs 4 "
        "--short-final-eval true --skip-generation true -mf model --verbose --no-cuda"
    )
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PARLAI_DATAPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model").is_file()
    assert "rank:  1 |" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("missing", "mend"),
    [
        ("parlai", "pip install --no-deps parlai==1.7.2"),
        ("parlai.core", "prosocial setup"),
        ("pkg_resources", "setuptools<81"),
    ],
)
def test_what_parlai_needs_is_named_with_its_mend(monkeypatch, missing, mend):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(UserError) as error:
        compat.require_parlai()
    assert mend in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("first", ["parlai.core.torch_agent", "parlai.scripts.train_model"])
def test_training_is_mended_whichever_module_comes_first(first):
    code = (
        "from parlai_prosocial.compat import patches; patches.apply();"
        f"import {first}, parlai.core.torch_agent, parlai.scripts.train_model as script;"
        "print(script.TrainModel.run.__globals__['__name__'], parlai.core.torch_agent.TorchAgent"
        ".state_dict.__globals__['__name__'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [
        "parlai_prosocial.compat.training",
        "parlai_prosocial.compat.run_state",
    ], done.stderr[-500:]
