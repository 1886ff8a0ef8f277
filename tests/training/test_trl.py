import json
import sys
from types import SimpleNamespace

import pytest
import torch
from parlai.core.agents import create_agent
from parlai.scripts.train_model import TrainModel
from trl import DPOTrainer

from parlai_prosocial.agents.prosocial import ProsocialAgent
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.machine import Machine, load_model
from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.dpo import DPOLoss
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.training.recipe import train_step
from parlai_prosocial.training.trl import (
    BATCH_SIZE,
    Pair,
    build_trainer,
    check_baselines,
    step_pairs,
    take_pairs,
    train_baseline,
)

PRESET = {
    "model": "prosocial",
    "task": "diasafety:Contrastive",
    "diasafety_cross_negatives": 2,
    "negatives": 2,
    "lora_rank": 4,
    "optimizer": "adamw",
    "learningrate": 0.02,
    "lr_scheduler": "linear",
    "warmup_updates": 1,
    "gradient_clip": 1.0,
    "batchsize": 4,
    "max_train_steps": 9,
    "text_truncate": 64,
    "label_truncate": 16,
    "precision": "fp32",
    "skip_generation": True,
    "log_every_n_steps": 1,
    "seed": 3,
}


@pytest.fixture(scope="module")
def step(tmp_path_factory, tiny_backbones):
    """``step(**opt)``: arguments of ``parlai train_model`` with a preset of step 1's kind."""
    folder = tmp_path_factory.mktemp("step")

    def arguments(**opt):
        preset = folder / "step1.opt"
        opt = PRESET | {"datapath": str(folder / "data")} | opt
        preset.write_text(json.dumps({k: v for k, v in opt.items() if v is not None}))
        return ["-o", str(preset), "--backbone", str(tiny_backbones["llama"])]

    return arguments


@pytest.fixture(scope="module")
def mle(step, tmp_path_factory):
    """A model file after two steps of likelihood."""
    return train_mle(step(), tmp_path_factory.mktemp("mle"))


def train_mle(arguments, folder):
    more = ["--contrast-weight", "0", "--max-train-steps", "2", "-mf", str(folder / "model")]
    return train_step([*arguments, *more], "mle", folder).model_file


@pytest.fixture
def agent(step, mle):
    return create_agent(TrainModel.setup_args().parse_args([*step(), "--init-model", mle]))


def load(model_file, folder) -> Backbone:
    machine = Machine("", folder, torch.device("cpu"), bf16=False)
    return load_model(machine, [SimpleNamespace(model_file=model_file)])[0]


def margins(model: Backbone, pairs: list[Pair]) -> torch.Tensor:
    packed = model.pack([p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs])
    with torch.no_grad():
        scores = model(packed).mean_log_probs().view(-1, 2)
    return scores[:, 0] - scores[:, 1]


def test_pairs_are_those_that_step_1_trains_on(step, mle, agent, tmp_path, monkeypatch):
    trained_on, train = [], ProsocialAgent.train_step

    def record(agent, batch):
        trained_on.extend(batch.examples)
        train(agent, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ProsocialAgent, "train_step", record)
        more = ["--init-model", mle, "-mf", str(tmp_path / "model")]
        train_step([*step(), *more], "step 1", tmp_path)
    expected = [Pair(e.context, e.response, n) for e in trained_on for n in e.negatives]
    assert len(expected) > 30
    pairs = step_pairs(agent)
    assert [next(pairs) for _ in expected] == expected


def test_tokens_of_taken_pairs_reach_the_budget(agent):
    pairs = take_pairs(step_pairs(agent), 3000)
    assert len(pairs) % BATCH_SIZE == 0
    assert sum(pair.tokens for pair in pairs[:-BATCH_SIZE]) < 3000
    assert sum(pair.tokens for pair in pairs) >= 3000
    pair = pairs[0]
    assert pair.tokens == len(pair.prompt + pair.chosen) + len(pair.prompt + pair.rejected)


@pytest.mark.parametrize("baseline", ["dpo", "simpo"])
def test_trl_gets_our_token_ids(baseline, agent, tmp_path):
    [end, pad] = agent.backbone.prompt.tokenizer.convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )
    pairs = take_pairs(step_pairs(agent), 3000)
    lengths = [len(pair.chosen) for pair in pairs]
    assert max(lengths) == PRESET["label_truncate"] and min(lengths) < max(lengths)
    assert all(pair.chosen[-1] == pair.rejected[-1] == end for pair in pairs)

    trainer = build_trainer(baseline, agent, pairs, tmp_path)
    assert trainer.args.max_steps * BATCH_SIZE == len(pairs)
    seen = []
    for batch in trainer.get_train_dataloader():
        if baseline == "dpo":
            ids, attended, replies = (
                batch[key] for key in ("input_ids", "attention_mask", "completion_mask")
            )
        else:
            whole = trainer.concatenated_inputs(batch, padding_value=trainer.pad_token_id)
            ids, attended = whole["concatenated_input_ids"], whole["concatenated_attention_mask"]
            replies = whole["concatenated_labels"] != -100
            assert torch.equal(whole["concatenated_labels"][replies], ids[replies])
        assert (ids[attended == 0] == pad).all()
        texts = [row[mask == 1].tolist() for row, mask in zip(ids, attended, strict=True)]
        asked = [row[mask == 1].tolist() for row, mask in zip(ids, replies, strict=True)]
        assert len(texts) == 2 * BATCH_SIZE
        for i in range(BATCH_SIZE):
            j = i + BATCH_SIZE
            prompt = texts[i][: -len(asked[i])]
            assert texts[j] == prompt + asked[j]
            seen.append(Pair(prompt, asked[i], asked[j]))
    assert sorted(map(repr, seen)) == sorted(map(repr, pairs))
    assert seen != pairs


def test_trl_makes_our_token_ids_of_whole_texts(step, tmp_path, monkeypatch):
    arguments = step(text_truncate=512, label_truncate=256)
    agent = create_agent(TrainModel.setup_args().parse_args(arguments))
    pairs = take_pairs(step_pairs(agent), 1)
    made, prepare = [], DPOTrainer._prepare_dataset

    def record(*args):
        made.append(prepare(*args))
        return made[0]

    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", record)
    build_trainer("dpo", agent, pairs, tmp_path)
    assert made[0]["prompt_ids"][:] == [pair.prompt for pair in pairs]
    assert made[0]["chosen_ids"][:] == [pair.chosen for pair in pairs]
    assert made[0]["rejected_ids"][:] == [pair.rejected for pair in pairs]


@pytest.mark.parametrize("baseline", ["dpo", "simpo"])
@pytest.mark.parametrize("lora_rank", [4, 0])
def test_a_baseline_learns_its_pairs_and_leaves_our_checkpoint(
    baseline, lora_rank, step, mle, tiny_backbones, tmp_path, monkeypatch
):
    if lora_rank == 0:
        mle = train_mle(step(lora_rank=0), tmp_path / "full")
    few = []

    def overfit(pairs, budget):
        few.extend(next(pairs) for _ in range(BATCH_SIZE))
        return few * 12

    monkeypatch.setattr("parlai_prosocial.training.trl.take_pairs", overfit)
    model_file = str(tmp_path / "baseline" / "model")
    arguments = [*step(lora_rank=lora_rank), "--init-model", mle]
    training = train_baseline(baseline, arguments, 1, model_file, baseline)
    assert training.steps == 12 and training.seconds > 0
    assert training.tokens == 12 * sum(pair.tokens for pair in few)

    before, after = (load(file, tiny_backbones["llama"]) for file in (mle, model_file))
    assert after.adapted == (lora_rank > 0)
    assert (margins(after, few) - margins(before, few)).mean() > 0.5
    # Our agent takes it as it takes any checkpoint of its own.
    opt = TrainModel.setup_args().parse_args(
        [*step(lora_rank=lora_rank), "--init-model", model_file]
    )
    again = create_agent(opt)
    assert torch.allclose(margins(again.backbone, few), margins(after, few), atol=1e-5)


def test_the_reference_is_the_model_it_starts_from(agent, tmp_path):
    pairs = take_pairs(step_pairs(agent), 1)
    trainer = build_trainer("dpo", agent, pairs * 3, tmp_path)
    model = agent.backbone.model
    adapters = {name: p.clone() for name, p in model.named_parameters() if ".default." in name}
    assert any(p.abs().sum() > 0 for name, p in adapters.items() if "lora_B" in name)
    trainer.train()
    now = dict(model.named_parameters())
    assert any(not torch.equal(now[name], p) for name, p in adapters.items())
    for name, p in adapters.items():
        assert torch.equal(now[name.replace(".default.", ".ref.")], p)


def test_mistakes_are_named(step, mle, tiny_backbones, monkeypatch):
    with pytest.raises(UserError, match=r'x: "then": "ppo": use one of dpo, simpo'):
        check_baselines({"x": "ppo"})
    check_baselines({"dpo": "dpo"})
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UserError, match="the dpo arm needs TRL: pip install 'parlai-prosocial"):
        check_baselines({"dpo": "dpo"})
    arguments = step(task="diasafety:Response", diasafety_cross_negatives=None)
    with pytest.raises(UserError, match="no example has negatives"):
        train_baseline("dpo", [*arguments, "--init-model", mle], 1, "m", "dpo")
    arguments = [*step(), "--backbone", str(tiny_backbones["t5"])]
    with pytest.raises(UserError, match="TRL trains causal models only"):
        train_baseline("dpo", arguments, 1, "m", "dpo")


def test_our_dpo_is_trls_on_the_same_pairs(agent, tmp_path):
    """The losses alone: TRL's sums have the end-of-turn token in them, and so have these."""
    pairs = take_pairs(step_pairs(agent), 1000)
    trainer = build_trainer("dpo", agent, pairs, tmp_path)
    backbone, parameters = agent.backbone.eval(), agent.backbone.model.named_parameters()

    def summed():
        seen = pairs[:BATCH_SIZE]
        packed = backbone.pack([p.prompt for p in seen], [[p.chosen, p.rejected] for p in seen])
        with torch.no_grad():
            return backbone(packed).log_probs().view(-1, 2)

    before = summed()
    with torch.no_grad():
        for name, parameter in parameters:
            if parameter.requires_grad and ".ref." not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    gained = summed() - before
    assert gained.abs().min() > 1e-3
    inputs = trainer.data_collator(trainer.train_dataset.to_list()[:BATCH_SIZE])
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model, inputs)
    mask = torch.ones(BATCH_SIZE, 1, dtype=torch.bool)
    found = DPOLoss(trainer.beta)(Candidates(gained[:, 0], gained[:, 1:], mask)).mean()
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)
    assert abs(float(found) - 0.6931) > 1e-3
