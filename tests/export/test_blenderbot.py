"""ParlAI's generators under transformers: the same logits, ids and greedy replies."""

import json
import pickle
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.core.params import ParlaiParser
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BlenderbotSmallTokenizer,
    BlenderbotTokenizer,
)

from parlai_prosocial.errors import UserError
from parlai_prosocial.export.blenderbot import convert, read_generator

TEXTS = [
    "i feel tired today . you could rest , and drink some water .",
    "is it fine to take what is not mine ? it is not kind to steal from others .",
    "what do you like to do on sundays ? i like to walk in the park with my dog .",
]
UNSEEN = ["Do you like zebras?", "It's fine, I am resting!"]
SIZES = {
    "embedding_size": 16,
    "ffn_size": 24,
    "n_heads": 2,
    "n_encoder_layers": 1,
    "n_decoder_layers": 2,
    "n_layers": 2,
    "n_positions": 64,
    "text_truncate": 64,
    "label_truncate": 10,
    "dropout": 0.1,
    "lr_scheduler": "none",
}
KINDS = {
    "400M": {"variant": "prelayernorm", "activation": "relu", "dict_tokenizer": "bytelevelbpe"},
    "90M": {
        "variant": "xlm",
        "activation": "gelu",
        "dict_tokenizer": "bpe",
        "dict_lower": True,
        "learn_positional_embeddings": True,
    },
    "gpt2": {"variant": "prelayernorm", "activation": "gelu", "dict_tokenizer": "gpt2"},
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """``make("90M")``: the file of a random model that ParlAI has made and saved."""
    root = tmp_path_factory.mktemp("parlai_generators")
    (root / "texts.txt").write_text("\n".join(TEXTS))
    bpe = ByteLevelBPETokenizer()
    bpe.train([str(root / "texts.txt")], vocab_size=300, show_progress=False)
    bpe.save_model(str(root), "bpe")
    gpt2 = root / "data" / "gpt2"
    gpt2.mkdir(parents=True)
    shutil.copy(root / "bpe-vocab.json", gpt2 / "encoder.json")
    shutil.copy(root / "bpe-merges.txt", gpt2 / "vocab.bpe")
    (gpt2 / ".built").write_text("built")

    def run(kind, name=None, **opt):
        path = root / (name or kind) / "model"
        if path.exists():
            return str(path)
        path.parent.mkdir()
        settings = {"model": "transformer/generator", **SIZES, **KINDS[kind], **opt}
        settings |= {"model_file": str(path), "datapath": str(root / "data")}
        if settings["dict_tokenizer"] == "bytelevelbpe":
            settings |= {
                "bpe_vocab": str(root / "bpe-vocab.json"),
                "bpe_merge": str(root / "bpe-merges.txt"),
            }
        if settings["dict_tokenizer"] == "bpe":
            _write_subword_dictionary(path)
        opt = ParlaiParser(True, True).parse_kwargs(**settings)
        opt["dict_file"] = f"{path}.dict"
        torch.manual_seed(0)
        agent = create_agent(opt)
        with torch.no_grad():
            for name, parameter in agent.model.named_parameters():
                if "layers" in name or "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                if "decoder.layers" in name:  # else the token read last decides alone
                    parameter.mul_(3)
        agent.save(str(path))
        return str(path)

    return run


def _write_subword_dictionary(path: Path) -> None:
    from subword_nmt import apply_bpe, learn_bpe

    with open(f"{path}.dict.codecs", "w", encoding="utf-8") as codes:
        learn_bpe.learn_bpe(iter(TEXTS), codes, num_symbols=40)
    with open(f"{path}.dict.codecs", encoding="utf-8") as codes:
        pieces = apply_bpe.BPE(codes).segment_tokens(" ".join(TEXTS).split())
    letters = sorted(set("".join(TEXTS)) - {" "})
    tokens = [*pieces, *letters, *(x + "@@" for x in letters), "__newln__", "!", "'", ","]
    lines = [f"{token}\t1\n" for token in dict.fromkeys(tokens)]
    Path(f"{path}.dict").write_text("".join(lines), "utf-8")


def tokenizer_in(folder):
    """transformers 4's AutoTokenizer takes a fast class for the 90M, which cannot read it."""
    slow = "BlenderbotSmallTokenizer" in (folder / "tokenizer_config.json").read_text()
    if slow and version("transformers").startswith("4."):
        return BlenderbotSmallTokenizer.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def datapath(path):
    return str(Path(path).parents[1] / "data")


def agent_of(path):
    settings = {
        "datatype": "valid",
        "datapath": datapath(path),
        "inference": "greedy",
        "skip_generation": False,
    }
    return create_agent_from_model_file(path, settings)


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def converted(make, kind, tmp_path):
    path = make(kind)
    convert(read_generator(path, datapath(path)), tmp_path)
    return agent_of(path), tmp_path


def test_logits_are_parlais(converted):
    agent, folder = converted
    lm = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    contexts = torch.tensor([[5, 9, 14, 20, 7], [8, 6, 11, 0, 0]])
    replies = torch.tensor([[10, 12, 9, 2], [7, 2, 0, 0]])
    agent.model.eval()
    with torch.no_grad():
        states = agent.model.encoder(contexts)
        expected, _ = agent.model.decode_forced(states, replies)
        start = torch.full((2, 1), agent.START_IDX)
        logits = lm(
            input_ids=contexts,
            attention_mask=(contexts != agent.NULL_IDX).long(),
            decoder_input_ids=torch.cat([start, replies[:, :-1]], 1),
        ).logits
    assert expected.isfinite().all() and expected[..., 2:].std() > 0.1
    never = agent.START_IDX
    assert (logits[..., never] < -60000).all() and (expected[..., never] < -60000).all()
    others = [i for i in range(logits.size(-1)) if i != never]
    torch.testing.assert_close(logits[..., others], expected[..., others], atol=1e-4, rtol=0)


def test_greedy_replies_are_parlais(converted):
    agent, folder = converted
    lm = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = tokenizer_in(folder)
    agent._v2t = lambda ids: " ".join(map(str, ids.tolist()))
    replies = []
    for text in [*TEXTS, *UNSEEN]:
        agent.reset()
        agent.observe(Message({"text": text, "episode_done": True}))
        replies.append(agent.act()["text"])
        ids = lm.generate(**tokenizer(text, return_tensors="pt"))[0]
        assert " ".join(map(str, ids.tolist())) == replies[-1]
    assert len(set(replies)) > 1


def test_texts_come_back_as_in_parlai(converted):
    agent, folder = converted
    tokenizer = tokenizer_in(folder)
    for text in TEXTS:
        ids = agent.dict.txt2vec(text)
        decoded = tokenizer.decode([*ids, agent.END_IDX], skip_special_tokens=True)
        assert decoded.strip() == agent.dict.vec2txt(ids).strip()


def test_token_ids_are_parlais(converted, kind):
    agent, folder = converted
    tokenizer = tokenizer_in(folder)
    own = BlenderbotSmallTokenizer if kind == "90M" else BlenderbotTokenizer
    direct = own.from_pretrained(folder)
    for text in [*TEXTS, *UNSEEN]:
        expected = agent.dict.txt2vec(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected
        assert direct(text, add_special_tokens=False)["input_ids"] == expected
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (agent.NULL_IDX, agent.END_IDX)
    assert len(tokenizer) == len(agent.dict)


@pytest.mark.parametrize("ends", [None, "end"])
def test_the_context_ends_as_in_parlai(make, tmp_path, ends):
    path = make("400M", f"ends-{ends}", history_add_global_end_token=ends)
    convert(read_generator(path), tmp_path)
    agent = agent_of(path)
    agent.observe(Message({"text": TEXTS[0], "episode_done": True}))
    expected = agent.observation["text_vec"].tolist()
    assert (expected[-1] == agent.END_IDX) == (ends == "end")
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0])["input_ids"] == expected


def test_the_tokenizer_gives_what_the_model_takes(converted):
    """transformers 4 adds token types unless told otherwise."""
    config = json.loads((converted[1] / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["tokenizer_class"] in ("PreTrainedTokenizerFast", "BlenderbotSmallTokenizer")


def test_decoding_and_lengths(make, tmp_path):
    path = make(
        "90M", "beam", inference="beam", beam_size=4, beam_min_length=5, beam_context_block_ngram=3
    )
    convert(read_generator(path), tmp_path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    expected = {"num_beams": 4, "min_new_tokens": 5, "encoder_no_repeat_ngram_size": 3}
    expected |= {"max_new_tokens": 10, "decoder_start_token_id": 1, "eos_token_id": 2}
    assert expected.items() <= config.items()


def test_one_that_was_tuned_here_converts_too(make, tmp_path):
    parent = make("400M")
    parser = ParlaiParser(True, True)
    opt = json.loads(Path(f"{parent}.opt").read_text())
    keys = [*SIZES, *KINDS["400M"], "bpe_vocab", "bpe_merge"]
    settings = {key: opt[key] for key in keys}
    agent = create_agent(
        parser.parse_kwargs(
            model="prosocial/transformer",
            init_model=parent,
            dict_file=f"{parent}.dict",
            **settings,
        )
    )
    agent.save(str(tmp_path / "model"))
    (tmp_path / "out").mkdir()
    convert(read_generator(str(tmp_path / "model")), tmp_path / "out")
    first = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert torch.equal(first.model.shared.weight, agent.model.embeddings.weight)


def test_tokens_that_only_fill_up_are_named(make, tmp_path):
    path = make("90M", "filled", force_fp16_tokens=True)
    generator = read_generator(path)
    assert len(generator.weights["embeddings.weight"]) % 8 == 0
    assert len(generator.dictionary.tokens) == len(generator.weights["embeddings.weight"])
    convert(generator, tmp_path)


class Surprise:
    def __reduce__(self):
        return print, ("this must not run",)


def broken(make, tmp_path, change_opt=None, change=None, kind="400M"):
    """A copy of a model, changed."""
    folder = shutil.copytree(Path(make(kind)).parent, tmp_path / "broken")
    path = folder / "model"
    if change_opt:
        opt = json.loads((folder / "model.opt").read_text()) | change_opt
        (folder / "model.opt").write_text(json.dumps(opt))
    if change:
        change(folder)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "aiayn"}, "--variant aiayn has no counterpart"),
        ({"variant": "bart"}, "--variant bart has no counterpart"),
        ({"n_segments": 2}, "--n-segments"),
        ({"output_scaling": 0.5}, "--output-scaling"),
        ({"dict_tokenizer": "re"}, "--dict-tokenizer re has no counterpart"),
        ({"dict_lower": True}, "--dict-lower True"),
        ({"n_encoder_layers": 2}, "do not fit model.opt"),
        ({"inference": "delayedbeam"}, "--inference delayedbeam"),
    ],
)
def test_what_has_no_counterpart_is_named(make, tmp_path, change, message):
    path = broken(make, tmp_path, change)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        convert(read_generator(path), tmp_path / "out")


def test_gpt2s_own_files_are_asked_for(make, tmp_path):
    path = broken(make, tmp_path, kind="gpt2")
    with pytest.raises(UserError, match=r"put GPT-2's vocab\.bpe there"):
        read_generator(path, str(tmp_path))
    shared = Path(datapath(make("gpt2"))) / "gpt2"
    shutil.copy(shared / "vocab.bpe", f"{path}.dict-merges.txt")
    shutil.copy(shared / "encoder.json", f"{path}.dict-vocab.json")
    assert len(read_generator(path).dictionary.merges) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.opt").unlink(), "model.opt beside it"),
        (lambda f: (f / "model.dict-merges.txt").unlink(), "model.dict-merges.txt: is missing"),
        (lambda f: (f / "model.dict-merges.txt").write_text("a b\n"), "does not begin with"),
        (
            lambda f: (f / "model.dict-merges.txt").write_text("#version: 0.2\na b\nab\n"),
            "model.dict-merges.txt, line 3",
        ),
        (lambda f: (f / "model.dict").write_text("one\t1\n"), "has 5 tokens, but the model"),
        (lambda f: (f / "model").write_bytes(b"no"), "holds no weights"),
        (lambda f: torch.save({"a": 1}, f / "model"), "holds no generator's weights"),
    ],
)
def test_broken_files_are_named(make, tmp_path, change, message):
    path = broken(make, tmp_path, change=change)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        convert(read_generator(path), tmp_path / "out")


def test_a_file_that_could_run_code_is_refused(make, tmp_path, capsys):
    def change(folder):
        states = torch.load(folder / "model", weights_only=True)
        states["surprise"] = Surprise()
        torch.save(states, folder / "model", pickle_module=pickle)

    path = broken(make, tmp_path, change=change)
    with pytest.raises(UserError, match="could run any code"):
        read_generator(path)
    assert "this must not run" not in capsys.readouterr().out
