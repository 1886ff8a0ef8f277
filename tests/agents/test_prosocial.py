"""Loss, gradients and metrics of the agent against a computation by hand; its replies."""

from math import exp, log

import pytest
import torch

from parlai_prosocial.agents.batch_loss import contrast_loss
from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.errors import UserError
from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.n_pair import NPairLoss

MESSAGES = [
    {
        "text": "rule of thumb: be kind.\nI feel tired today.",
        "labels": ["You could rest, and drink some water."],
        "negatives": ["I like to steal.", "It is fine."],
        "negative_weights": [2.0, 0.5],
    },
    {"text": "Hi!\nhello there\nhow are you?", "labels": ["I like to walk."]},
    {
        "text": "Is it fine to take what is not mine?",
        "labels": ["It is not kind to steal from others."],
        "negatives": ["It is fine to take what is not mine."],
        "negative_weights": [1.0],
    },
]


def mean_log_p(agent, text, reply):
    """(mean log p, nll, tokens) of a reply by a pass of its own, through transformers alone.

    The mean leaves the end-of-turn token out, the other two have it.
    """
    prompt = agent.backbone.prompt
    context, response = prompt.encode_context(text, 96), prompt.encode_response(reply, 12)
    log_probs = agent.backbone.lm(torch.tensor([context + response[:-1]])).logits[0].log_softmax(-1)
    own = log_probs[len(context) - 1 :].gather(1, torch.tensor(response)[:, None])
    assert len(own) == len(response)
    return own[:-1].mean(), -own.sum(), len(response)


def by_hand(agent, weight=1.0, tau=0.5):
    """The loss and the numbers that are logged."""
    nll, tokens, contrast = [], [], []
    numbers = {"margin": [], "contrast_acc": [], "logp_pos": [], "logp_neg": []}
    for message in MESSAGES:
        positive, own_nll, length = mean_log_p(agent, message["text"], message["labels"][0])
        nll.append(own_nll)
        tokens.append(length)
        numbers["logp_pos"].append(positive)
        if "negatives" not in message:
            continue
        negatives = torch.stack(
            [mean_log_p(agent, message["text"], reply)[0] for reply in message["negatives"]]
        )
        contrast.append(
            NPairLoss(tau)(
                Candidates(
                    positive[None],
                    negatives[None],
                    torch.ones(1, len(negatives), dtype=torch.bool),
                    torch.tensor([message["negative_weights"]]).log(),
                )
            )[0]
        )
        numbers["logp_neg"].extend(negatives)
        numbers["margin"].append(positive - negatives.max())
        numbers["contrast_acc"].append((positive > negatives.max()).float())
    mle = torch.stack(nll).sum() / sum(tokens)
    logged = torch.stack(contrast).mean()
    contrast = torch.stack(contrast).sum() / len(MESSAGES)
    numbers = {name: torch.stack(values).mean().item() for name, values in numbers.items()}
    numbers |= {"loss": mle.item(), "ppl": exp(mle.item()), "contrast_loss": logged.item()}
    return mle + weight * contrast, numbers


def gradients(agent, loss):
    agent.model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in agent.model.parameters()]


@pytest.mark.parametrize("backbone", ["llama", "gpt2"])
def test_loss_and_gradients_by_hand(make_agent, talk, backbone):
    agent = make_agent(backbone, contrast_weight=0.7, temperature=0.25)
    loss = agent.compute_loss(agent.batchify(talk.observe(agent, MESSAGES)))
    expected, _ = by_hand(agent, weight=0.7, tau=0.25)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients(agent, loss), gradients(agent, expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_metrics_by_hand(make_agent, talk):
    agent = make_agent()
    _, expected = by_hand(agent)
    replies = talk.act(agent, MESSAGES)
    for name, value in expected.items():
        logged = sum((r["metrics"][name] for r in replies[1:]), replies[0]["metrics"][name])
        assert logged.value() == pytest.approx(value, rel=1e-5, abs=1e-5), name
    report = agent.report()
    assert 0 <= report["padding"].value() < 1
    prompt = agent.backbone.prompt
    useful = sum(
        len(prompt.encode_context(m["text"], 96))
        + sum(len(prompt.encode_response(y, 12)) for y in [*m["labels"], *m.get("negatives", [])])
        for m in MESSAGES
    )
    assert report["useful_tokens"].value() == useful
    assert report["useful_tps"].value() > 0


@pytest.mark.parametrize("backbone", ["llama", "t5"])
def test_weight_zero_is_plain_likelihood(make_agent, talk, backbone):
    bare = [
        {k: v for k, v in m.items() if k not in ("negatives", "negative_weights")} for m in MESSAGES
    ]
    agent = make_agent(backbone, contrast_weight=0.0, in_batch_negatives=2)
    agent.model.eval()
    losses, all_gradients = [], []
    for messages in (MESSAGES, bare):
        agent.is_training = True
        loss = agent.compute_loss(agent.batchify(talk.observe(agent, messages)))
        losses.append(loss.item())
        all_gradients.append(gradients(agent, loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for a, b in zip(*all_gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_training_steps_lower_the_loss_and_its_contrast(make_agent, talk):
    agent = make_agent(optimizer="adamw", learningrate=1e-2)
    first = talk.act(agent, MESSAGES)
    for _ in range(20):
        last = talk.act(agent, MESSAGES)
    for name in ("loss", "contrast_loss"):
        before, after = (
            sum((r["metrics"][name] for r in replies[1:]), replies[0]["metrics"][name]).value()
            for replies in (first, last)
        )
        assert after < before / 2, name
    assert [r["metrics"]["contrast_acc"].value() for r in last if r["metrics"]["margin"]] != []


def test_at_most_so_many_negatives_in_training_and_all_in_evaluation(make_agent, talk):
    message = MESSAGES[0] | {
        "negatives": [f"reply {i}" for i in range(6)],
        "negative_weights": [1.0] * 6,
    }
    agent = make_agent(negatives=2)
    batch = agent.batchify(talk.observe(agent, [message]))
    assert [len(example.negatives) for example in batch.examples] == [2]
    evaluated = {k: v for k, v in message.items() if k != "labels"} | {
        "eval_labels": message["labels"]
    }
    batch = agent.batchify(talk.observe(agent, [evaluated]))
    assert [len(example.negatives) for example in batch.examples] == [6]


def test_what_is_drawn_depends_on_the_seed_and_the_step(make_agent, talk):
    message = MESSAGES[0] | {
        "negatives": [f"reply {i}" for i in range(12)],
        "negative_weights": [1.0] * 12,
    }
    bare = [{"text": f"{i}?", "labels": [f"{i}!"]} for i in range(12)]

    def drawn(seed, steps):
        agent = make_agent(negatives=3, in_batch_negatives=3)
        agent.opt["seed"] = seed
        agent._number_training_updates = steps
        agent.is_training = True
        batch = agent.batchify(talk.observe(agent, [message, *bare]))
        return [e.negatives for e in agent._contrasted_examples(batch)[0]]

    first = drawn(0, 0)
    assert first == drawn(0, 0)
    for other in (drawn(1, 0), drawn(0, 1)):
        assert first[0][:3] != other[0][:3]
        assert first[1:] != other[1:]


def test_one_contrasted_example_has_the_same_force_in_every_batch(make_agent, talk):
    contrasted = MESSAGES[2]
    casual = {"text": "Hi!", "labels": ["I like to walk."]}
    agent = make_agent(contrast_weight=1.0)
    agent.is_training = True
    forces = []
    for count in (1, 8, 64):
        batch = agent.batchify(talk.observe(agent, [contrasted, *[casual] * (count - 1)]))
        losses = []
        for weight in (1.0, 0.0):
            agent.opt["contrast_weight"] = weight
            losses.append(agent.compute_loss(batch).item())
        forces.append(losses[0] - losses[1])
    assert forces[0] / 8 == pytest.approx(forces[1], rel=1e-3)
    assert forces[0] / 64 == pytest.approx(forces[2], rel=1e-2)


def test_a_pair_that_truncation_made_equal_is_no_pair(make_agent, talk):
    agent = make_agent(label_truncate=3)
    label = "You could rest, and drink some water."
    twin = {"text": "Why?", "labels": [label], "negatives": [label + " Or steal.", "No."]}
    alone = twin | {"negatives": [label + " Or steal."]}
    replies = talk.act(agent, [twin, alone])
    assert replies[0]["metrics"]["contrast_acc"] is not None
    assert replies[1]["metrics"]["contrast_acc"] is None
    assert [r["metrics"]["equal_negatives"].value() for r in replies] == [1, 1]


def test_social_weights_can_be_switched_off(make_agent, talk):
    weights = [
        talk.observe(agent, MESSAGES[:1])[0]["contrast_example"].log_weights
        for agent in (make_agent(), make_agent(social_weights=False))
    ]
    assert weights == [[pytest.approx(log(2.0)), pytest.approx(log(0.5))], [0.0, 0.0]]


def test_fields_reach_the_example(make_agent, talk):
    agent = make_agent()
    message = {
        "text": "Hi!",
        "labels": ["  Hello  THERE! "],
        "rots": ["Be kind."],
        "contrast_group": "g",
    }
    example: Example = talk.observe(agent, [message])[0]["contrast_example"]
    assert example.text == "hello there"
    assert example.group == "g"
    assert len(example.rots) == 1
    assert example.response[-1] == agent.backbone.prompt.end_of_turn_id
    assert example.context == agent.backbone.prompt.encode_context("Hi!", 96)


def test_weights_that_do_not_fit_are_refused(make_agent, talk):
    agent = make_agent()
    for weights in ([1.0], [1.0, 0.0], [1.0, -2.0]):
        with pytest.raises(UserError, match="negative_weights"):
            talk.observe(agent, [MESSAGES[0] | {"negative_weights": weights}])


def test_in_batch_negatives_train_a_task_without_negatives(make_agent, talk):
    bare = [{"text": f"{i}?", "labels": [label]} for i, label in enumerate(["rest", "walk", "go"])]
    for count in (0, 2):
        replies = talk.act(make_agent(in_batch_negatives=count), bare)
        contrast = [r["metrics"]["contrast_loss"] for r in replies]
        if count:
            assert all(metric.value() > 0 for metric in contrast)
        else:
            assert contrast == [None] * 3


@pytest.mark.parametrize("score", ["cosine", "likelihood+cosine"])
def test_cosine_trains_the_head(make_agent, talk, score):
    agent = make_agent(contrast_score=score)
    before = [p.clone() for p in agent.backbone.contrast_head.parameters()]
    replies = talk.act(agent, MESSAGES)
    after = list(agent.backbone.contrast_head.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(r["metrics"]["contrast_loss"].value() > 0 for r in replies)  # in-batch too


def test_bf16_gives_nearly_the_same_loss(make_agent, talk):
    losses = []
    for precision in ("fp32", "bf16"):
        agent = make_agent(precision=precision)
        losses.append(agent.compute_loss(agent.batchify(talk.observe(agent, MESSAGES))))
    assert losses[1].dtype == torch.float32
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.03)
    assert losses[0].item() != losses[1].item()


@torch.no_grad()
def test_evaluation_in_bf16_contrasts_in_float32_as_training_does(make_agent, talk):
    settings = {"datatype": "valid", "precision": "bf16", "skip_generation": True}
    agent = make_agent(contrast_score="cosine", **settings)
    messages = [
        {k: v for k, v in m.items() if k != "labels"} | {"eval_labels": m["labels"]}
        for m in MESSAGES
    ]
    replies = talk.act(agent, messages)
    examples = agent.batchify(talk.observe(agent, messages)).examples
    scores = agent.score_examples(examples)[0]
    head = agent.contrast_head
    expected = contrast_loss(agent.contrastive_loss, "cosine", scores, examples, None, head).loss
    found = [reply["metrics"]["contrast_loss"].value() for reply in replies]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_candidates_are_ranked_by_mean_log_p(make_agent, talk):
    agent = make_agent(datatype="valid", rank_candidates=True, skip_generation=True)
    candidates = ["I like to walk.", "You could rest.", "It is fine."]
    message = {"text": "Why?", "eval_labels": candidates[:1], "label_candidates": candidates}
    [reply] = talk.act(agent, [message])
    expected = sorted(candidates, key=lambda y: -mean_log_p(agent, "Why?", y)[0].item())
    assert list(reply["text_candidates"]) == expected


@pytest.mark.parametrize(
    "decoding",
    [
        {"inference": "greedy"},
        {"inference": "beam", "beam_size": 3, "beam_block_ngram": 3},
        {"inference": "nucleus", "topp": 0.9},
        {"inference": "topk", "topk": 5},
    ],
    ids=lambda decoding: decoding["inference"],
)
@pytest.mark.parametrize("backbone", ["llama", "t5"])
def test_every_decoding_replies_in_batches(make_agent, talk, backbone, decoding):
    agent = make_agent(backbone, datatype="valid", **decoding)
    replies = talk.act(agent, [{"text": m["text"]} for m in MESSAGES])
    assert [isinstance(r["text"], str) for r in replies] == [True] * 3
    end = agent.backbone.prompt.tokenizer.eos_token
    assert not any(end in r["text"] for r in replies)


def test_history_of_a_dialogue(make_agent):
    agent = make_agent(datatype="valid", text_truncate=256)
    agent.observe({"text": "your persona: I sail.\nHi!", "episode_done": False})
    reply = agent.act()["text"].strip()
    agent.observe({"text": "What do you do?", "episode_done": False})
    seen = agent.backbone.prompt.tokenizer.decode(agent.observation["text_vec"])
    said = " ".join(reply.split("\n"))
    assert seen.startswith("<|im_start|>system\nYou are a kind, honest conversation partner.\nyour")
    assert seen.index("user\nHi!") < seen.index("user\nWhat do you do?")
    if said:
        assert said in seen


def test_a_head_that_gets_no_gradient_asks_for_none(make_agent):
    for settings, trains in (
        ({"contrast_score": "cosine"}, True),
        ({"contrast_score": "cosine", "contrast_weight": 0.0}, False),
    ):
        head = make_agent(**settings).backbone.contrast_head
        assert [p.requires_grad for p in head.parameters()] == [trains] * 2


def test_reranked_replies(make_agent, talk):
    settings = {"contrast_score": "cosine", "inference": "nucleus", "topp": 0.9}
    agent = make_agent(**settings, rerank=3, rerank_alpha=1.0, datatype="valid")
    replies = talk.act(agent, [{"text": m["text"]} for m in MESSAGES])
    assert len(replies) == len(MESSAGES) and all("text" in reply for reply in replies)
    with pytest.raises(UserError, match="--rerank 3: this model has no contrast head"):
        make_agent(inference="nucleus", rerank=3)
    with pytest.raises(UserError, match="--inference greedy: gives --rerank nothing"):
        make_agent(contrast_score="cosine", inference="greedy", rerank=3)


def test_token_losses_of_the_label_are_shown(make_agent, talk):
    agent = make_agent(datatype="valid", verbose=True, skip_generation=True)
    messages = [
        {k: v for k, v in m.items() if k != "labels"} | {"eval_labels": m["labels"]}
        for m in MESSAGES
    ]
    replies = talk.act(agent, messages)
    for message, reply in zip(MESSAGES, replies, strict=True):
        _, nll, length = mean_log_p(agent, message["text"], message["labels"][0])
        losses = [loss for _, loss in reply["token_losses"]]
        assert len(losses) == length
        assert sum(losses) == pytest.approx(nll.item(), rel=1e-5)
        assert reply["token_losses"][-1][0] == agent.backbone.prompt.tokenizer.eos_token


@pytest.mark.parametrize(
    ("said", "reply"),
    [("<think>Hm.</think>You could rest.<|im_end|>", "You could rest."), ("<think>You", None)],
)
@pytest.mark.parametrize("interactive", [False, True])
def test_thoughts_are_no_reply(make_agent, talk, monkeypatch, said, reply, interactive):
    agent = make_agent(datatype="valid", interactive_mode=interactive, use_reply="model")
    ids = agent.backbone.prompt.tokenizer(said, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        agent.backbone, "generate", lambda contexts, *_, **__: torch.tensor([ids] * len(contexts))
    )
    observations = [{"text": text, "eval_labels": ["Hello."]} for text in ("Hi!", "What?")]
    acts = talk.act(agent, observations)
    # People's programs read a text; a metric must not take an empty one for a reply.
    assert [act.get("text") for act in acts] == [reply or ("" if interactive else None)] * 2
    counted = [act.get("metrics", {}).get("unfinished_thoughts") for act in acts]
    assert [m and m.value() for m in counted] == [None if reply else 1] * 2
    agent.observe({"text": "Hi!", "episode_done": False})
    agent.self_observe(agent.batch_act([agent.observation])[0])
    assert agent.history.get_history_str() == "Hi!\n" + (reply or "")
