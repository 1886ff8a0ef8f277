"""``prosocial export`` as it is typed: the folder, its card, and what is refused."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from parlai_prosocial import Prosocial
from parlai_prosocial.cards.card import SECTIONS
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.checkpoint import CLASSIFIER_FORMAT, Checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def trained(tiny_backbones, tmp_path_factory):
    """The file of step 2 of a recipe, with what both steps leave beside it."""
    root = tmp_path_factory.mktemp("runs")
    for step, task in (("step1", "diasafety:Contrastive"), ("step2", "self_dialogue,prosocial")):
        backbone = Backbone(tiny_backbones["llama"], lora_rank=2, contrast_head=step == "step2")
        path = root / step / "model"
        info = {"backbone": str(tiny_backbones["llama"]), "system_prompt": "Be kind."}
        save_checkpoint(str(path), backbone, info, {})
        opt = {"model": "prosocial", "task": task, "contrast_weight": 0.5, "label_truncate": 8}
        if step == "step2":
            opt["init_model"] = str(root / "step1" / "model")
        path.with_name("model.opt").write_text(json.dumps(opt))
        finished = {"model_file": str(path), "steps": 30, "tokens": 4000, "seconds": 61.5}
        finished["command"] = f"parlai train_model -t {task} -mf {path}"
        path.with_name("finished.json").write_text(json.dumps(finished))
    return str(root / "step2" / "model")


@pytest.fixture
def results(trained, tmp_path):
    """What ``prosocial compare`` writes, less its length; n-pair is :func:`trained`."""
    table = make_table(
        "Both axes",
        {"row": {"label": "row"}, "unsafe": {"label": "unsafe, %", "scale": 100}},
        [{"row": "n-pair", "unsafe": Interval(0.125, 0.1, 0.15)}],
    )
    environment = {"command": "prosocial compare --out /home/me/runs", "device": "x86_64"}
    environment |= {"cores": 2, "precision": "fp32"}
    file = tmp_path / "measured" / "results.json"
    file.parent.mkdir()
    weights = weights_sha256(Checkpoint(trained).folder)[:16]
    rows = {"n-pair": {"weights": weights}, "MLE-only": {"weights": "0" * 16}, "shorter": {}}
    table["rows"] += [{"row": name, "unsafe": None} for name in ("MLE-only", "shorter")]
    content = {"environment": environment, "tables": [table], "results": {"0": rows}}
    file.write_text(json.dumps(content))
    return file


def run(*arguments):
    done = CliRunner().invoke(cli, ["export", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def sections(card):
    parts = re.split(r"^## (.+)$", card.split("---\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))


def test_the_folder_replies_as_the_model_does(trained, tmp_path):
    output = run("hf", "--model", trained, "--out", tmp_path / "mine", "--gguf")
    names = {file.name for file in (tmp_path / "mine").iterdir()}
    assert names - {"special_tokens_map.json"} == {  # which transformers 4 adds
        "README.md",
        "chat_template.jinja",
        "config.json",
        "contrast_head.json",
        "contrast_head.safetensors",
        "generation_config.json",
        "model-f16.gguf",
        "model.safetensors",
        "prosocial.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(name in output for name in names)
    expected = Prosocial.from_pretrained(trained).reply(["Hi!"])
    assert Prosocial.from_pretrained(tmp_path / "mine").reply(["Hi!"]).text == expected.text
    lm = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="mine/model-f16.gguf").eval()
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "mine").eval()
    ids = torch.tensor([[1, 30, 40, 50, 60]])
    torch.testing.assert_close(lm(ids).logits, other(ids).logits, atol=2e-2, rtol=0)


def test_the_card_has_all_sections_and_only_facts(trained, results, tmp_path):
    measured = ["--results", results, "--row", "n-pair"]
    run("hf", "--model", trained, "--out", tmp_path / "mine", "--title", "Kind", *measured)
    card = (tmp_path / "mine" / "README.md").read_text()
    found = sections(card)
    assert list(found) == list(SECTIONS)
    assert all(len(body) > 20 for body in found.values())
    assert not re.search(
        r"None|More Information Needed|\{|nan", card.replace("[{", "").replace('{"role', "")
    )
    assert str(tmp_path.parent) not in card
    assert "# Kind" in card
    assert "Be kind." in found["What it is"]
    parameters = AutoModelForCausalLM.from_pretrained(tmp_path / "mine").num_parameters()
    assert f"{parameters:,} parameters" in found["What it is"]
    for name in ("DiaSafety", "Self-dialogue", "ProsocialDialog"):
        for section in ("Training data", "Licences", "Citation"):
            assert name in found[section] or section == "Citation"
    assert "Moral Integrity" not in card
    assert found["Recipe"].count("30 steps; 4,000 processed tokens") == 2
    assert "contrast_weight 0.5" in found["Recipe"]
    assert "parlai train_model -t diasafety:Contrastive -mf model" in found["Recipe"]
    assert "| n-pair | 12.5 [10.0, 15.0] |" in found["Evaluation"]
    assert "This model is the row “n-pair”." in found["Evaluation"]
    assert "prosocial compare --out runs" in found["Evaluation"]
    assert "62 s, 62 s; together 123 s" in found["Environmental cost"]
    assert "x86_64, 2 cores, fp32" in found["Environmental cost"]
    head = ModelCard(card).data
    [measured] = head.eval_results
    assert measured.metric_value == 12.5 and measured.metric_args == {"low": 10.0, "high": 15.0}
    assert (measured.dataset_name, measured.metric_name) == ("Both axes", "unsafe, %")
    head = card.split("---\n")[1]
    assert "pipeline_tag: text-generation" in head and "- allenai/prosocial-dialog" in head


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("MLE-only", r"MLE-only is another model \(weights 0{16}.*; its own row is n-pair"),
        ("n-piar", r"^--row n-piar: no row or column of .*; did you mean n-pair\?"),
        ("shorter", r"does not say which weights shorter has.*prosocial evaluate"),
    ],
)
@pytest.mark.parametrize("command", ["hf", "card"])
def test_results_of_others_are_refused(trained, results, tmp_path, command, row, message):
    arguments = ["--model", trained, "--out", tmp_path / "mine", "--results", results, "--row", row]
    with pytest.raises(UserError, match=message):
        run(command, *arguments)
    assert not (tmp_path / "mine").exists()


def test_a_summary_of_evaluate_tells_whose_its_rows_are(trained, results, tmp_path):
    content = json.loads(results.read_text())
    weights = content.pop("results")["0"]["n-pair"]["weights"]
    content["models"] = [{"name": "n-pair", "where": "x", "engine": f"x/model@{weights}"}]
    content["models"] += [{"name": "MLE-only", "where": "y", "engine": "http://y/v1#y"}]
    results.write_text(json.dumps(content))
    run("card", "--model", trained, "--out", tmp_path / "mine", "--results", results)
    assert "the row “n-pair”" in (tmp_path / "mine" / "README.md").read_text()


def test_the_cards_example_runs(trained, tmp_path, monkeypatch, capsys):
    run("hf", "--model", trained, "--out", tmp_path / "mine")
    usage = sections((tmp_path / "mine" / "README.md").read_text())["How to use it"]
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", usage, re.DOTALL)[1], {})
    assert capsys.readouterr().out.strip() == Prosocial.from_pretrained(trained).reply("Hi!").text


def test_what_nobody_measured_is_called_so(tiny_backbones, tmp_path):
    run("hf", "--model", tiny_backbones["t5"], "--out", tmp_path / "plain")
    found = sections((tmp_path / "plain" / "README.md").read_text())
    assert list(found) == list(SECTIONS)
    assert found["Evaluation"].startswith("Not measured.")
    assert found["Recipe"] == "None: no training run is recorded."
    assert found["Training data"] == "Not recorded."
    assert found["Environmental cost"] == "No training is recorded."


def test_failures_are_sampled_from_the_log_beside_the_summary(trained, results, tmp_path):
    def record(number, model, p_unsafe, reply="<b>Nice</b> *one*!"):
        judgement = None if p_unsafe is None else {"p_unsafe": p_unsafe, "label": "x"}
        return {
            "model": model,
            "suite": "adversarial",
            "id": str(number),
            "context": ["I lied.", f"Number {number}."],
            "axes": ["unsafe"],
            "reply": reply,
            "judgements": {"unsafe": {"judge@12": judgement}},
        }

    records = [record(i, "n-pair", 0.9 if i < 20 else 0.1) for i in range(40)]
    records += [record(i, "other", 0.9) for i in range(40, 60)] + [record(60, "n-pair", None)]
    log = results.with_name("log.jsonl")
    log.write_text("".join(json.dumps(r) + "\n" for r in records))
    arguments = ["hf", "--model", trained, "--results", results, "--out"]
    run(*arguments, tmp_path / "mine")
    body = sections((tmp_path / "mine" / "README.md").read_text())["How it fails"]
    numbers = [int(n) for n in re.findall(r"Number (\d+)", body)]
    assert len(numbers) == 12 and max(numbers) < 20
    assert numbers != sorted(numbers)
    evaluation = sections((tmp_path / "mine" / "README.md").read_text())["Evaluation"]
    assert evaluation.startswith("This model is the row “n-pair”.")  # told by its weights
    assert "&lt;b&gt;Nice&lt;/b&gt; \\*one\\*\\!" in body and "<b>" not in body
    assert "unsafe by judge@12; suite adversarial" in body
    run(*arguments, tmp_path / "again")
    assert sections((tmp_path / "again" / "README.md").read_text())["How it fails"] == body


def test_an_adapter_alone(trained, tiny_backbones, tmp_path):
    run("hf", "--model", trained, "--out", tmp_path / "mine", "--adapter")
    assert (tmp_path / "mine" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "mine" / "model.safetensors").exists()
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "base_sha256" in card
    expected = Prosocial.from_pretrained(trained).reply(["Hi!"]).text
    assert Prosocial.from_pretrained(tmp_path / "mine").reply(["Hi!"]).text == expected


@pytest.fixture
def hub(monkeypatch):
    """A hub that writes down what is uploaded."""
    calls = []

    class FakeApi:
        def create_repo(self, repo_id, exist_ok):
            calls.append(("create", repo_id, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            if repo_id == "me/refused":
                raise ConnectionError("token hf_secret is bad")
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    return calls


def test_push_uploads_the_folder(trained, tmp_path, hub):
    output = run("hf", "--model", trained, "--out", tmp_path / "mine", "--push", "me/kind")
    assert hub == [("create", "me/kind", True), ("upload", "me/kind", str(tmp_path / "mine"))]
    assert "https://huggingface.co/me/kind" in output
    assert 'model="me/kind"' in (tmp_path / "mine" / "README.md").read_text()


def test_a_refused_push_keeps_the_folder_and_shows_no_token(trained, tmp_path, hub):
    with pytest.raises(UserError, match=r"--push me/refused: not uploaded") as error:
        run("hf", "--model", trained, "--out", tmp_path / "mine", "--push", "me/refused")
    assert "hf_secret" not in str(error.value)
    assert (tmp_path / "mine" / "model.safetensors").exists()


def test_mistakes_are_named(trained, tiny_backbones, tmp_path):
    out = tmp_path / "mine"
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "judge").write_text(json.dumps({"format": CLASSIFIER_FORMAT}))
    for arguments, message in (
        (["--adapter", "--gguf"], "leave --adapter out"),
        (["--results", tmp_path / "other.json"], "tables: Field required"),
        (["--results", tmp_path / "broken.json"], "broken.json: Invalid JSON"),
        (["--model", tmp_path / "no/such/model"], "no such model"),
        (["--model", tiny_backbones["gpt2"], "--adapter"], "this model has no adapter"),
        (["--model", tiny_backbones["gpt2"], "--gguf", "f32"], "is a gpt2"),
        (["--model", tmp_path / "judge"], r"judge: is a safety classifier \(-m prosocial/class"),
    ):
        with pytest.raises(UserError, match=message):
            run("hf", "--model", trained, "--out", out, *arguments)
        assert not out.exists()
    out.mkdir()
    (out / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        run("hf", "--model", trained, "--out", out)
    with pytest.raises(UserError, match=r"config\.json\.opt beside it"):
        run("parlai", "--model", tiny_backbones["gpt2"] / "config.json", "--out", tmp_path / "p")
    with pytest.raises(UserError, match=r"is a checkpoint of -m prosocial, .*prosocial export hf"):
        run("parlai", "--model", trained, "--out", tmp_path / "p")


def test_a_generator_of_parlai(tmp_path, monkeypatch, capsys):
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser
    from tokenizers import ByteLevelBPETokenizer

    (tmp_path / "texts.txt").write_text("what do you like to do on sundays ?")
    bpe = ByteLevelBPETokenizer()
    bpe.train([str(tmp_path / "texts.txt")], vocab_size=270, show_progress=False)
    bpe.save_model(str(tmp_path), "bpe")
    path = str(tmp_path / "model")
    opt = ParlaiParser(True, True).parse_kwargs(
        model="transformer/generator",
        variant="prelayernorm",
        dict_tokenizer="bytelevelbpe",
        bpe_vocab=str(tmp_path / "bpe-vocab.json"),
        bpe_merge=str(tmp_path / "bpe-merges.txt"),
        embedding_size=16,
        ffn_size=16,
        n_layers=1,
        n_positions=32,
        lr_scheduler="none",
        dict_file=f"{path}.dict",
        model_file=path,
    )
    agent = create_agent(opt)
    agent.save(path)
    run("parlai", "--model", path, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert list(sections(card)) == list(SECTIONS)
    assert "BlenderbotForConditionalGeneration" in card
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("what do you like")["input_ids"]
    assert ids == agent.dict.txt2vec("what do you like")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    usage = sections(card)["How to use it"]
    exec(re.search(r"```python\n(.*?)```", usage, re.DOTALL)[1], SimpleNamespace().__dict__)
