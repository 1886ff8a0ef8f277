"""``-m prosocial/transformer`` against ParlAI's own generator, and back and forth between them."""

import pickle
import shutil

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.params import ParlaiParser
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.errors import UserError

SETTINGS = {
    "task": "mic:Contrastive",
    "prosocial_sample": True,
    "batchsize": 2,
    "embedding_size": 16,
    "ffn_size": 16,
    "n_heads": 2,
    "n_layers": 1,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "text_truncate": 64,
    "label_truncate": 12,
    "learningrate": 1e-2,
    "optimizer": "sgd",
    "lr_scheduler": "none",
    "warmup_updates": -1,
    "validation_max_exs": 4,
    "skip_generation": True,
    "datatype": "train:ordered:stream",
}


# What TrainModel takes and an agent alone does not.
AGENT_SETTINGS = {
    key: value
    for key, value in SETTINGS.items()
    if key not in ("validation_max_exs", "prosocial_sample", "task")
}


@pytest.fixture(scope="module")
def parlais(tmp_path_factory):
    """A tiny model that ParlAI's own agent has trained."""
    path = str(tmp_path_factory.mktemp("parlai") / "model")
    TrainModel.main(
        model="transformer/generator", model_file=path, max_train_steps=2, seed=0, **SETTINGS
    )
    return path


@pytest.fixture
def tune(parlais, tmp_path):
    """``tune(name, model=..., **settings)``: continue from ParlAI's model, give the new file."""

    def run(name, model="prosocial/transformer", steps=2, **settings):
        path = str(tmp_path / name)
        settings = SETTINGS | {"max_train_steps": steps, "init_model": parlais} | settings
        TrainModel.main(model=model, model_file=path, **settings)
        return path

    return run


def weights(path):
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def ppl(path, model):
    report = EvalModel.main(
        model=model,
        model_file=path,
        task="mic:Contrastive",
        prosocial_sample=True,
        datatype="test",
        batchsize=2,
        skip_generation=True,
    )
    return float(report["ppl"])


def test_weight_zero_trains_as_parlai_does(tune):
    ours = weights(tune("ours", contrast_weight=0.0))
    theirs = weights(tune("theirs", model="transformer/generator"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_tuned_model_runs_under_plain_parlai(tune, parlais):
    path = tune("tuned", contrast_weight=5.0, steps=4, learningrate=0.5)
    assert ppl(path, "prosocial/transformer") == pytest.approx(
        ppl(path, "transformer/generator"), rel=1e-4
    )
    assert ppl(path, "transformer/generator") != pytest.approx(
        ppl(parlais, "transformer/generator"), rel=1e-4
    )
    agent = create_agent_from_model_file(
        path, {"model": "transformer/generator", "skip_generation": False, "datatype": "valid"}
    )
    agent.observe({"text": "Is it fine to steal?", "episode_done": True})
    assert isinstance(agent.act()["text"], str)


def test_the_contrast_changes_what_is_learnt_and_resumes(tune):
    plain, contrast = (tune(f"weight-{w}", contrast_weight=w) for w in (0.0, 5.0))
    assert any(not torch.equal(weights(plain)[n], t) for n, t in weights(contrast).items())
    before = weights(contrast)
    TrainModel.main(
        model="prosocial/transformer", model_file=contrast, **SETTINGS, max_train_steps=4
    )
    assert any(not torch.equal(before[n], t) for n, t in weights(contrast).items())


def example(context, response, negatives=()):
    return Example(context, response, str(response), "", frozenset(), list(negatives), [])


def test_scores_equal_a_pass_for_each_candidate(parlais):
    opt = ParlaiParser(True, True).parse_kwargs(
        model="prosocial/transformer", init_model=parlais, **AGENT_SETTINGS
    )
    agent = create_agent(opt)
    agent.model.eval()
    end = agent.END_IDX
    examples = [
        example([7, 8, 9, 10], [11, 12, end], [[13, end], [14, 15, 16, end]]),
        example([9, 6], [10, end]),
    ]
    scores, padding, _ = agent.score_examples(examples)
    scores.mean_log_probs().square().sum().backward()
    together = agent.model.embeddings.weight.grad.clone()
    agent.model.zero_grad()

    means = []
    for one in examples:
        for candidate in (one.response, *one.negatives):
            ids = torch.tensor([candidate])
            states = agent.model.encoder(torch.tensor([one.context]))
            logits, _ = agent.model.decode_forced(states, ids)
            log_probs = logits.log_softmax(-1).gather(2, ids[..., None])
            means.append(log_probs[0, :-1].mean())
    alone = torch.stack(means)
    torch.testing.assert_close(scores.mean_log_probs(), alone, rtol=1e-5, atol=1e-5)
    alone.square().sum().backward()
    torch.testing.assert_close(together, agent.model.embeddings.weight.grad, rtol=1e-4, atol=1e-5)
    assert padding == pytest.approx(1 - (6 + 11) / (8 + 16))


class Surprise:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_could_run_code_is_refused(tmp_path, parlais, capsys):
    states = torch.load(parlais, weights_only=True)
    path = tmp_path / "model"
    torch.save(states | {"surprise": Surprise()}, path, pickle_module=pickle)
    for ending in (".opt", ".dict", ".dict.opt"):
        shutil.copy(parlais + ending, tmp_path / f"model{ending}")
    parser = ParlaiParser(True, True)
    opt = parser.parse_kwargs(model="prosocial/transformer", init_model=str(path), **AGENT_SETTINGS)
    with pytest.raises(UserError, match="opening it could run any code"):
        create_agent(opt)
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast_temperature": 0.0}, "--contrast-temperature 0.0: must be above 0"),
        ({"contrast_weight": -1.0}, "--contrast-weight -1.0: must not be negative"),
    ],
)
def test_mistakes_are_named(parlais, settings, message):
    parser = ParlaiParser(True, True)
    opt = parser.parse_kwargs(
        model="prosocial/transformer", init_model=parlais, **(AGENT_SETTINGS | settings)
    )
    with pytest.raises(UserError, match=message):
        create_agent(opt)
