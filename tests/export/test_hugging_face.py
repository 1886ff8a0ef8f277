"""An exported folder under plain transformers: the agent's numbers, prompt and replies."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    pipeline,
)

from parlai_prosocial.errors import UserError
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import save_checkpoint
from parlai_prosocial.zoo.resolve import open_generator

NAMES = ["gpt2", "llama", "t5", "blenderbot"]
SYSTEM_PROMPT = 'Be "kind" to {{ all }} {% of %} \\us,\n😀.'
CHATS = [
    ["Hi!"],
    ["I feel tired today.", "You could rest.", "Why?"],
    ["Hello.", "Is it fine to steal?"],
]
LENGTH = 12


@pytest.fixture
def trained(tiny_backbones, tmp_path):
    """``trained(name, lora_rank=..., ...)``: the file of a checkpoint unlike its base."""

    def make(name, folder=None, opt=None, **settings):
        folder = folder or tiny_backbones[name]
        backbone = Backbone(folder, system_prompt=SYSTEM_PROMPT, **settings)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        path = tmp_path / "trained" / "model"
        info = {"backbone": str(folder), "system_prompt": SYSTEM_PROMPT}
        save_checkpoint(str(path), backbone, info, {})
        opt = {"label_truncate": LENGTH} | (opt or {})
        path.with_name("model.opt").write_text(json.dumps(opt))
        return str(path)

    return make


def messages(turns):
    roles = ("user", "assistant")
    return [{"role": roles[(len(turns) - 1 - i) % 2], "content": t} for i, t in enumerate(turns)]


def reply(opened, turns):
    backbone = opened.backbone
    context = backbone.prompt.encode_context("\n".join(turns))
    generated = backbone.generate([context], LENGTH, do_sample=False, num_beams=1, min_new_tokens=1)
    return backbone.prompt.reply([], backbone.reply_ids(generated[0]))


def template_ids(tokenizer, chat):
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_greedy_replies_are_the_agents(trained, tmp_path, name, rank):
    path = trained(name, lora_rank=rank)
    opened = open_generator(path)
    expected = [reply(opened, turns) for turns in CHATS]
    assert len(set(expected)) == len(CHATS)
    contexts = [opened.backbone.prompt.encode_context("\n".join(turns)) for turns in CHATS]
    opened.backbone.eval()
    more = {"decoder_input_ids": torch.tensor([[1, 7, 8]])} if name in ("t5", "blenderbot") else {}
    logits = [opened.backbone.lm(torch.tensor([c]), **more).logits for c in contexts]

    export_model(open_generator(path), tmp_path / "out", card="card")
    auto = AutoModelForSeq2SeqLM if more else AutoModelForCausalLM
    lm = auto.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for context, before, text in zip(contexts, logits, expected, strict=True):
        ids = torch.tensor([context])
        torch.testing.assert_close(lm(ids, **more).logits, before, atol=1e-4, rtol=0)
        generated = lm.generate(ids, attention_mask=torch.ones_like(ids))[0]
        new = generated if more else generated[len(context) :]
        assert tokenizer.decode(new, skip_special_tokens=True).strip() == text
    assert (tmp_path / "out" / "README.md").read_text() == "card"


@pytest.mark.parametrize("name", NAMES)
def test_what_was_exported_opens_here_again(trained, tmp_path, name):
    path = trained(name, lora_rank=2, contrast_head=True, opt={"inference": "beam", "beam_size": 3})
    opened = open_generator(path)
    expected = [reply(opened, turns) for turns in CHATS]
    contexts = [opened.backbone.prompt.encode_context("\n".join(turns)) for turns in CHATS]
    response = opened.backbone.prompt.encode_response("I like to walk.")
    head = {k: v.clone() for k, v in opened.backbone.contrast_head.state_dict().items()}
    export_model(open_generator(path), tmp_path / "out")
    again = open_generator(str(tmp_path / "out"))
    assert again.decoding == opened.decoding
    assert again.decoding["beam_size"] == 3
    assert not again.backbone.adapted
    assert [reply(again, turns) for turns in CHATS] == expected
    prompt = again.backbone.prompt
    assert [prompt.encode_context("\n".join(turns)) for turns in CHATS] == contexts
    assert prompt.encode_response("I like to walk.") == response
    persona = "your persona: I sail.\nHi!"
    assert prompt.encode_context(persona) == opened.backbone.prompt.encode_context(persona)
    for key, tensor in again.backbone.contrast_head.state_dict().items():
        assert torch.equal(tensor, head[key])
    size = json.loads((tmp_path / "out" / "contrast_head.json").read_text())
    weights = load_file(tmp_path / "out" / size["file"])
    assert weights["context.weight"].shape == (size["dim"], size["hidden_size"])


def no_system(tmp_path, base):
    """The llama with a template that refuses system turns and wants the user to begin."""
    folder = shutil.copytree(base, tmp_path / "no_system")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('user and assistant in turn') }}{% endif %}"
        "{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "gpt2", "no_system", "bos"])
def test_the_template_alone_gives_the_agents_prompt(tiny_backbones, trained, tmp_path, name):
    folder = tiny_backbones.get(name)
    if name == "no_system":
        folder = no_system(tmp_path, tiny_backbones["llama"])
    if name == "bos":
        from tokenizers.processors import TemplateProcessing

        folder = shutil.copytree(tiny_backbones["llama"], tmp_path / "bos")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = None
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
        tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = trained(name, folder=folder)
    prompt = open_generator(path).backbone.prompt
    export_model(open_generator(path), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for turns in CHATS:
        expected = prompt.encode_context("\n".join(turns))
        assert template_ids(tokenizer, messages(turns)) == expected
        if prompt.has_template:
            assert tokenizer.decode(expected).count("😀") == 1
    # A system turn of one's own takes the place of ours.
    own = [{"role": "system", "content": "Be brief."}, *messages(["Hi!"])]
    text = tokenizer.apply_chat_template(own, add_generation_prompt=True, tokenize=False)
    assert "Be brief." in text and "😀" not in text


def test_the_text_generation_pipeline_gives_the_agents_reply(trained, tmp_path):
    path = trained("llama", lora_rank=2)
    opened = open_generator(path)
    expected = [reply(opened, turns) for turns in CHATS]
    export_model(open_generator(path), tmp_path / "out")
    generate = pipeline("text-generation", model=str(tmp_path / "out"))
    # transformers 4's pipeline samples by itself where generation_config.json says nothing else.
    old = version("transformers").startswith("4.")
    own = {"do_sample": False, "max_new_tokens": LENGTH} if old else {}
    chats = [messages(turns) for turns in CHATS]
    alone = [generate(chat, **own)[0]["generated_text"][-1]["content"].strip() for chat in chats]
    together = generate(chats, batch_size=len(chats), **own)
    assert alone == expected
    assert [x[0]["generated_text"][-1]["content"].strip() for x in together] == expected


def test_padding_is_not_the_end_of_turn(trained, tmp_path):
    export_model(open_generator(trained("llama")), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (config.pad_token_id, config.eos_token_id) == (0, 2)


@pytest.mark.parametrize(
    ("opt", "expected"),
    [
        ({}, {"do_sample": False, "max_new_tokens": LENGTH, "min_new_tokens": 1}),
        ({"inference": "topk", "topk": 7}, {"do_sample": True, "top_k": 7}),
        (
            {"inference": "nucleus", "topp": 0.8, "sampling_temperature": 0.7},
            {"do_sample": True, "top_p": 0.8, "top_k": 0, "temperature": 0.7},
        ),
        (
            {"inference": "beam", "beam_size": 4, "beam_block_ngram": 3},
            {"num_beams": 4, "no_repeat_ngram_size": 3},
        ),
    ],
)
def test_decoding_is_the_agents(trained, tmp_path, opt, expected):
    export_model(open_generator(trained("llama", opt=opt)), tmp_path / "out")
    config = GenerationConfig.from_pretrained(tmp_path / "out").to_dict()
    assert expected.items() <= config.items()


def test_an_adapter_can_be_kept(tiny_backbones, trained, tmp_path):
    path = trained("llama", lora_rank=2, contrast_head=True)
    opened = open_generator(path)
    expected = reply(opened, CHATS[1])
    export_model(open_generator(path), tmp_path / "out", keep_adapter=True)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_backbones["llama"])
    lm = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    ids = torch.tensor([opened.backbone.prompt.encode_context("\n".join(CHATS[1]))])
    torch.testing.assert_close(
        lm(input_ids=ids).logits, opened.backbone.lm(ids).logits, atol=1e-4, rtol=0
    )
    again = open_generator(str(tmp_path / "out"))
    assert again.backbone.adapted and again.backbone.contrast_head is not None
    assert reply(again, CHATS[1]) == expected


def test_an_adapter_export_names_its_base_and_no_folder_of_this_machine(trained, tmp_path):
    path = trained("llama", lora_rank=2)
    opened = open_generator(path)
    opened.name = "zoo:prosocial/some"
    export_model(opened, tmp_path / "out", keep_adapter=True)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "zoo:prosocial/some"
    for file in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path) not in file.read_text(), file.name


def test_a_full_export_names_no_folder_of_this_machine(trained, tmp_path):
    export_model(open_generator(trained("llama", lora_rank=2)), tmp_path / "out")
    for file in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path.parent.parent) not in file.read_text(), file.name


def test_mistakes_are_named(trained, tmp_path):
    opened = open_generator(trained("gpt2"))
    with pytest.raises(UserError, match="--adapter: this model has no adapter"):
        export_model(opened, tmp_path / "out", keep_adapter=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        export_model(opened, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    export_model(opened, tmp_path / "empty")
    assert not (tmp_path / "empty.part").exists()


def test_a_kill_leaves_no_folder(trained, tmp_path, monkeypatch):
    opened = open_generator(trained("gpt2"))

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("parlai_prosocial.export.hugging_face.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        export_model(opened, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_is_promised_is_exported(tiny_backbones, trained, tmp_path):
    """A base's own beams, min_p or lengths are not: they would act, or be refused."""
    folder = shutil.copytree(tiny_backbones["llama"], tmp_path / "base")
    file = folder / "generation_config.json"
    said = {"do_sample": True, "temperature": 0.3, "min_p": 0.15, "num_beams": 3, "top_p": 0.5}
    said |= {"eos_token_id": [2, 40], "repetition_penalty": 1.3, "max_length": 9}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    opened = open_generator(trained("llama", folder=folder))
    expected = reply(opened, CHATS[1])
    export_model(opened, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written.pop("transformers_version")
    written = {key: value for key, value in written.items() if value is not None}
    defaults = {"do_sample": False, "num_beams": 1}  # left out by transformers before 5
    assert defaults | written | {"_from_model_config": False} == {
        "_from_model_config": False,
        "bos_token_id": 1,
        "do_sample": False,
        "eos_token_id": [2, 40],
        "max_new_tokens": LENGTH,
        "min_new_tokens": 1,
        "num_beams": 1,
        "pad_token_id": 0,
    }
    assert reply(open_generator(tmp_path / "out"), CHATS[1]) == expected


@pytest.mark.parametrize(
    "inference", [{"inference": "beam", "beam_size": 1}, {"inference": "nucleus", "rerank": 0}]
)
def test_every_decoding_of_the_agent_can_be_saved(trained, tmp_path, inference):
    export_model(open_generator(trained("llama", opt=inference)), tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == LENGTH


@pytest.mark.parametrize("what", ["GenerationConfig", "LlamaForCausalLM"])
def test_a_failure_leaves_nothing(trained, tmp_path, monkeypatch, what):
    opened = open_generator(trained("llama"))

    def refuse(*args, **kwargs):
        raise ValueError("no room")

    monkeypatch.setattr(f"transformers.{what}.save_pretrained", refuse)
    error = UserError if what == "GenerationConfig" else ValueError
    with pytest.raises(error, match="no room"):
        export_model(opened, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
