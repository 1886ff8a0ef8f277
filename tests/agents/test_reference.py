"""Training relative to the model that the run starts from."""

import json

import pytest
import torch
from parlai.scripts.train_model import TrainModel
from safetensors.torch import save_file

from parlai_prosocial.agents.batch_loss import contrast_loss
from parlai_prosocial.errors import UserError
from parlai_prosocial.losses.n_pair import NPairLoss

CASUAL = "__casual__"
MESSAGES = [
    {
        "text": "I feel tired today.",
        "labels": ["You could rest, and drink some water."],
        "negatives": ["I like to steal.", "It is fine."],
        "negative_weights": [2.0, 0.5],
    },
    {"text": "Hi!", "labels": ["I like to walk."], "safety_label": CASUAL},
    {"text": "Is it fine?", "labels": ["It is not kind."], "negatives": ["It is fine."]},
]
LORA = {"lora_rank": 2, "optimizer": "adamw", "learningrate": 1e-2}


def candidates(agent, messages):
    """Token ids of each message's context and candidates."""
    prompt = agent.backbone.prompt
    return [
        (
            prompt.encode_context(m["text"], 96),
            [prompt.encode_response(y, 12) for y in [*m["labels"], *m.get("negatives", [])]],
        )
        for m in messages
    ]


@torch.no_grad()
def scores_of(agent, messages=MESSAGES):
    """Mean log p of each contrasted candidate by the model as it is, a pass for each."""
    return [
        agent.backbone(agent.backbone.pack([context], [[reply]])).mean_log_probs().item()
        for m, (context, replies) in zip(messages, candidates(agent, messages), strict=True)
        for reply in replies
        if "negatives" in m
    ]


def train(agent, talk, steps=3, messages=MESSAGES):
    for _ in range(steps):
        replies = talk.act(agent, messages)
    return replies


def asked(agent, talk, messages=MESSAGES):
    batch = agent.batchify(talk.observe(agent, messages))
    found = agent.reference.log_probs(batch.examples)
    return [value for value in found if value != 0.0]


def test_scores_are_those_of_the_base_under_a_new_adapter(make_agent, talk):
    agent = make_agent(contrast_reference="init", **LORA)
    before = scores_of(agent)
    with agent.backbone.model.disable_adapter():
        assert scores_of(agent) == pytest.approx(before, abs=1e-5)
    train(agent, talk)
    assert scores_of(agent) != pytest.approx(before, abs=1e-3)
    agent.reference.start.scores.clear()  # computed anew by the adapter of the beginning
    assert asked(agent, talk) == pytest.approx(before, abs=1e-5)


def test_scores_are_those_of_init_model_with_its_adapter(make_agent, talk, tmp_path):
    first = make_agent(**LORA)
    train(first, talk)
    first.save(str(tmp_path / "first"))
    second = make_agent(init_model=str(tmp_path / "first"), contrast_reference="init", **LORA)
    before = scores_of(second)
    assert before == pytest.approx(scores_of(first), abs=1e-5)
    with second.backbone.model.disable_adapter():
        assert scores_of(second) != pytest.approx(before, abs=1e-3)
    train(second, talk)
    second.reference.start.scores.clear()
    assert asked(second, talk) == pytest.approx(before, abs=1e-5)


def test_the_pass_of_the_start_leaves_the_trained_weights(make_agent, talk):
    agent = make_agent(contrast_reference="init", casual_kl=0.1, **LORA)
    train(agent, talk)
    parameters = [p for p in agent.backbone.model.parameters() if p.requires_grad]
    before = [(p.data_ptr(), p.clone()) for p in parameters]
    agent.reference.start.scores.clear()
    asked(agent, talk)
    assert [p.data_ptr() for p in parameters] == [pointer for pointer, _ in before]
    assert all(torch.equal(p, old) for p, (_, old) in zip(parameters, before, strict=True))


@pytest.mark.parametrize("loss", ["n-pair", "likelihood-margin", "ranked-margin", "dpo"])
def test_the_first_step_contrasts_equal_scores(make_agent, talk, loss):
    """Relative to itself, every reply scores 0."""
    agent = make_agent(contrast_reference="init", contrast_loss=loss, social_weights=False, **LORA)
    replies = talk.act(agent, MESSAGES)
    found = [r["metrics"]["contrast_loss"] for r in replies]
    if loss == "n-pair":
        expected = [torch.tensor(3.0).log().item(), None, torch.tensor(2.0).log().item()]
    elif loss == "likelihood-margin":
        expected = [10.0, None, 10.0]
    elif loss == "dpo":
        expected = [torch.tensor(2.0).log().item(), None, torch.tensor(2.0).log().item()]
    else:
        expected = [0.02, None, 0.01]
    for metric, value in zip(found, expected, strict=True):
        assert (metric and metric.value()) == (value and pytest.approx(value, abs=1e-4))


def test_the_relative_loss_by_hand(make_agent, talk):
    agent = make_agent(contrast_reference="init", temperature=0.5, **LORA)
    before = scores_of(agent)
    train(agent, talk)
    batch = agent.batchify(talk.observe(agent, MESSAGES))
    agent.is_training = True
    reference = agent.reference_log_probs(batch.examples)
    scores = agent.score_examples(batch.examples)[0]
    output = contrast_loss(
        NPairLoss(0.5), "likelihood", scores, batch.examples, None, None, reference
    )
    now = scores_of(agent)
    gaps = [a - b for a, b in zip(now, before, strict=True)]
    weights = torch.tensor([2.0, 0.5]).log()
    terms = torch.tensor([0.0, *((torch.tensor(gaps[1:3]) - gaps[0]) / 0.5 + weights)])
    last = torch.tensor([0.0, (gaps[4] - gaps[3]) / 0.5])
    expected = torch.stack([terms.logsumexp(0), torch.tensor(0.0), last.logsumexp(0)])
    torch.testing.assert_close(output.loss.detach(), expected, atol=1e-4, rtol=0)
    assert output.mean_log_probs[0, 0].item() == pytest.approx(now[0], abs=1e-5)  # as it is


def test_rows_that_carry_their_scores_are_believed_where_they_are_right(make_agent, talk):
    agent = make_agent(contrast_reference="init", **LORA)
    before = scores_of(agent)
    given = [
        MESSAGES[0]
        | {"reference_log_prob": before[0], "negative_reference_log_probs": before[1:3]},
        MESSAGES[1],
        MESSAGES[2] | {"reference_log_prob": before[3], "negative_reference_log_probs": before[4:]},
    ]
    talk.act(agent, given)
    agent.reference.start.scores.clear()
    assert asked(agent, talk, given) == pytest.approx(before)
    assert not agent.reference.start.scores  # nothing was computed
    wrong = [given[0] | {"reference_log_prob": before[0] - 1.0}]
    with pytest.raises(UserError, match=r"reference_log_prob is -.* where the model that this run"):
        talk.act(make_agent(contrast_reference="init", **LORA), wrong)
    with pytest.raises(UserError, match="1 negative_reference_log_probs do not fit 2 negatives"):
        talk.act(agent, [MESSAGES[0] | {"negative_reference_log_probs": [-1.0]}])


def test_casual_kl_is_0_at_the_start_and_by_hand_later(make_agent, talk):
    agent = make_agent(casual_kl=0.5, contrast_weight=0.0, **LORA)
    context, [reply] = candidates(agent, MESSAGES[1:2])[0]

    def log_probs():
        with torch.no_grad():
            logits = agent.backbone.lm(torch.tensor([context + reply[:-1]])).logits[0]
        return logits[len(context) - 1 :].log_softmax(-1)

    before = log_probs()
    replies = talk.act(agent, MESSAGES)
    assert [r["metrics"]["casual_kl"] is None for r in replies] == [True, False, True]
    assert replies[1]["metrics"]["casual_kl"].value() == pytest.approx(0.0, abs=1e-6)
    train(agent, talk)
    expected = (before.exp() * (before - log_probs())).sum(-1).mean().item()
    assert expected > 1e-3
    batch = agent.batchify(talk.observe(agent, MESSAGES))
    losses = []
    for weight in (0.5, 1e-9):
        agent.opt["casual_kl"] = weight
        losses.append(agent.compute_loss(batch))
    # A mean over all examples of the batch, as the contrast is.
    gap = losses[0].item() - losses[1].item()
    assert gap == pytest.approx(0.5 * expected / len(MESSAGES), rel=1e-3)


def test_rows_with_scores_train_by_likelihood_alone_too(make_agent, talk):
    agent = make_agent(contrast_reference="init", casual_kl=0.1, contrast_weight=0.0, **LORA)
    before = scores_of(agent)
    given = [
        MESSAGES[0] | {"reference_log_prob": before[0], "negative_reference_log_probs": [-1, -2]},
        MESSAGES[1],
    ]
    replies = talk.act(agent, given)
    assert replies[0]["metrics"].get("contrast_loss") is None
    assert replies[1]["metrics"]["casual_kl"].value() == pytest.approx(0.0, abs=1e-6)


def test_casual_kl_holds_the_model_back(make_agent, talk):
    moved = []
    for weight in (0.0, 50.0):
        agent = make_agent(casual_kl=weight, **LORA)
        before = scores_of(agent, [MESSAGES[1] | {"negatives": []}])
        train(agent, talk, steps=8)
        after = scores_of(agent, [MESSAGES[1] | {"negatives": []}])
        moved.append(abs(after[0] - before[0]))
    assert moved[1] < moved[0] / 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"casual_kl": 0.1}, "--casual-kl 0.1: needs --lora-rank above 0"),
        ({"casual_kl": -1.0, "lora_rank": 2}, "--casual-kl -1.0: must not be negative"),
        (
            {"contrast_reference": "init", "in_batch_negatives": 2},
            "--in-batch-negatives 2: with --contrast-reference init it needs --lora-rank",
        ),
        (
            {"contrast_reference": "init", "contrast_score": "cosine"},
            "--contrast-reference init: is of the likelihood",
        ),
    ],
)
def test_flags_that_cannot_act_are_refused(make_agent, flags, message):
    with pytest.raises(UserError, match=message):
        make_agent(**flags)


@pytest.fixture
def run(tmp_path, tiny_backbones):
    rows = [
        {
            "context": f"I took {i}.",
            "response": f"Give {i} back.",
            "negatives": [f"Take {i} more.", "Fine.", f"Well done, {i}!"],
            "split": split,
        }
        for split, count in (("train", 6), ("valid", 1), ("test", 1))
        for i in range(count)
    ]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(name, **settings):
        defaults = {
            "model": "prosocial",
            "backbone": str(tiny_backbones["llama"]),
            "task": "prosocial:Own",
            "prosocial_data": str(data),
            "batchsize": 2,
            "precision": "fp32",
            "learningrate": 1e-2,
            "lr_scheduler": "none",
            "negatives": 2,
            "skip_generation": True,
            "contrast_reference": "init",
            "validation_max_exs": 1,
            "validation_every_n_steps": 1,
            "save_after_valid": True,
            "validation_cutoff": 2.0,
            "validation_metric": "contrast_acc",
            "datatype": "train:ordered",
        }
        TrainModel.main(model_file=str(tmp_path / name), **defaults | settings)
        reports = json.loads((tmp_path / f"{name}.trainstats").read_text())["train_reports"]
        return [report["contrast_loss"] for report in reports]

    return train


@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_keeps_its_start(run, rank):
    whole = run("whole", max_train_steps=5, lora_rank=rank, log_every_n_steps=1)
    run("parts", max_train_steps=2, lora_rank=rank, log_every_n_steps=1)
    parts = run("parts", max_train_steps=5, lora_rank=rank, log_every_n_steps=1)
    assert whole[0] == pytest.approx(parts[0], abs=1e-4)
    # The first step is relative to itself; were the start lost, so would a resumed run's be.
    assert abs(whole[-1] - whole[0]) > 1e-2
    assert abs(parts[-1] - parts[0]) > 1e-2


def test_a_start_that_is_torn_or_gone_is_named(run, tmp_path):
    run("one", max_train_steps=2, lora_rank=2)
    start = tmp_path / "one.start.safetensors"
    start.write_bytes(start.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"one\.start\.safetensors: cannot be loaded"):
        run("one", max_train_steps=4, lora_rank=2)
    save_file({"other": torch.ones(1)}, start)
    with pytest.raises(UserError, match=r"one\.start\.safetensors: has no .*lora"):
        run("one", max_train_steps=4, lora_rank=2)
    start.unlink()
    with pytest.raises(UserError, match=r"one\.start\.safetensors: is missing, which has what"):
        run("one", max_train_steps=4, lora_rank=2)
