"""Every kind of name in every command, agent and call that takes a model: opened, or refused."""

import shutil

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from parlai_prosocial import Prosocial, open_classifier
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.export.gguf import write_gguf
from parlai_prosocial.export.hugging_face import export_model
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import FORMAT, save_checkpoint
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.util.files import read_json, write_json
from parlai_prosocial.zoo import resolve
from parlai_prosocial.zoo.resolve import Kind, find, find_base, open_generator

REPLIES = {"checkpoint", "folder", "tilde", "hub", "zoo base", "zoo tuned", "gguf", "adapter"}
BASES = {"folder", "tilde", "hub", "zoo base", "gguf"}
KINDS = [
    *("checkpoint", "classifier", "folder", "tilde", "hub", "zoo base", "zoo tuned", "gguf"),
    *("adapter", "address", "nothing"),
]
GENERATES = ["--max-tokens", "2", "--concurrency", "1"]
OWN = '{"context": ["I lied."], "response": "Tell them.", "safety_label": "__needs_caution__"}\n'


@pytest.fixture(scope="module")
def made(tiny_backbones, tiny_encoder, tmp_path_factory):
    """A folder with a model of every kind, and ParlAI's data path."""
    root = tmp_path_factory.mktemp("names")
    llama = tiny_backbones["llama"]
    torch.manual_seed(0)
    tuned = Backbone(llama, lora_rank=2)
    info = {"backbone": str(llama), "system_prompt": "Be kind."}
    save_checkpoint(str(root / "run" / "model"), tuned, info, {})
    options = '{"model": "prosocial", "label_truncate": 4, "precision": "fp32"}'
    (root / "run" / "model.opt").write_text(options)
    judge = SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"])
    judge.save(str(root / "judge" / "model"), str(tiny_encoder), {})
    export_model(open_generator(llama), root / "exported")
    write_gguf(root / "exported", root / "tiny.gguf", "f32")
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama), lora).save_pretrained(root / "lora")
    AutoTokenizer.from_pretrained(llama).save_pretrained(root / "lora")
    shutil.copytree(llama, root / "hub" / "models--someone--bot" / "snapshots" / ("a" * 40))
    refs = root / "hub" / "models--someone--bot" / "refs"
    refs.mkdir()
    (refs / "v1").write_text("a" * 40)
    (root / "own.jsonl").write_text(OWN)
    (root / "data" / "OffensiveLanguage").mkdir(parents=True)
    (root / "data" / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text("e\n")
    zoo = root / "data" / "models" / "prosocial"
    shutil.copytree(root / "run", zoo / "smollm2_135m_mle")
    shutil.copytree(llama, zoo / "smollm2_135m" / "hf")
    write_json(zoo / "smollm2_135m" / "model", {"format": FORMAT, "weights": "hf"})
    write_json(zoo / "smollm2_135m" / "model.opt", {"model": "prosocial"})
    return root


@pytest.fixture
def names(made, tiny_backbones, chat_server, monkeypatch):
    """Kind -> a name of a model of that kind."""
    llama = tiny_backbones["llama"]
    zoo = made / "data" / "models" / "prosocial"
    monkeypatch.setenv("HOME", str(llama.parent))
    monkeypatch.setenv("PARLAI_DATAPATH", str(made / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(made / "hub"))

    def install(entry, datapath, say):
        return zoo / entry.name / "hf" if entry.kind == "package" else zoo / entry.name

    monkeypatch.setattr(resolve, "install", install)
    monkeypatch.setattr("parlai.zoo.prosocial.build.install_entry", install)
    return {
        "checkpoint": str(made / "run" / "model"),
        "classifier": str(made / "judge" / "model"),
        "folder": str(llama),
        "tilde": "~/llama",
        "hub": "someone/bot@v1",
        "zoo base": "zoo:prosocial/smollm2_135m/model",
        "zoo tuned": "zoo:prosocial/smollm2_135m_mle",
        "gguf": str(made / "tiny.gguf"),
        "adapter": str(made / "lora"),
        "address": chat_server.address,
        "nothing": "runs/nope/model",
    }


def command(*words):
    """Run a command of ours; its error, if it has one, comes out."""
    done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    if done.exit_code == 2:  # told as a mistake of usage, which names the flag too
        raise UserError(done.output.strip().splitlines()[-1].removeprefix("Error: "))
    assert done.exit_code == 0, done.output


def evaluate(name, out, made, program="evaluate"):
    command(program, "--model", f"x={name}", "--suite", "casual", "--limit", 1, *GENERATES,
            "--out", out, "--datapath", made / "data")  # fmt: skip


def mine(name, out, made, *more):
    command("mine", "--model", name, "--task", "prosocial:Own", "--casual", "--samples", 1,
            "--set", f"prosocial-data={made / 'own.jsonl'}", "--judge", "words", *GENERATES,
            "--out", f"{out}.jsonl", "--datapath", made / "data", *more)  # fmt: skip


def annotate(name, out, made):
    command("annotate", "--rot-model", name, "--task", "prosocial:Own", "--limit", 1,
            "--set", f"prosocial-data={made / 'own.jsonl'}", "--out", f"{out}.jsonl",
            "--datapath", made / "data")  # fmt: skip


def chat(name, out, made, flag="--model"):
    model = ["--model", made / "exported"] if flag == "--classifier" else []
    command("chat", *model, flag, name, "--port", 0, "--datapath", made / "data")


def export(kind):
    def run(name, out, made):
        command("export", kind, "--model", name, "--out", out, "--datapath", made / "data")

    return run


def agent(**opt):
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    create_agent(ParlaiParser(True, True).parse_kwargs(precision="fp32", no_cuda=True, **opt))


def generator_agent(name, out, made):
    agent(model="prosocial", backbone=name, lora_rank=0)


def continued_agent(name, out, made):
    if name.startswith("zoo:") and not name.endswith("/model"):
        name += "/model"  # ParlAI itself looks for it, and knows no other name
    agent(model="prosocial", init_model=name)


def classifier_agent(name, out, made):
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    flags = ["-m", "prosocial/classifier", "--backbone", name, "--binary", "true", "--no-cuda"]
    create_agent(ParlaiParser(True, True).parse_args(flags))


def safety_model(name, out, made):
    agent(model="prosocial", backbone=str(made / "exported"), lora_rank=0, show_safety=True,
          safety_model=name)  # fmt: skip


def safety_bench(name, out, made):
    from parlai_prosocial.evaluation.safety_bench import open_agent

    open_agent(name, str(made / "data"))


def base_of_recipes(name, out, made):
    from parlai_prosocial.experiments.machine import find_machine

    find_machine(name, str(made / "data"), out)


def judge(kind):
    def run(name, out, made):
        open_judge(f"{kind}:{name}", str(made / "data"), False, unsafe_label="LABEL_0")

    return run


def api(argument):
    def run(name, out, made):
        given = {"model": made / "exported", "datapath": str(made / "data")} | {argument: name}
        Prosocial.from_pretrained(**given).reply(["Hi!"])

    return run


USERS = {
    "evaluate": (evaluate, "--model", REPLIES | {"address"}),
    "audit": (lambda *a: evaluate(*a, program="audit"), "--model", REPLIES | {"address"}),
    "mine": (mine, "--model", REPLIES | {"address"}),
    "annotate": (annotate, "--rot-model", REPLIES | {"address"}),
    "chat": (chat, "--model", REPLIES),
    "chat --classifier": (
        lambda *a: chat(*a, flag="--classifier"), "--classifier", {"classifier"}
    ),
    "export hf": (export("hf"), "--model", REPLIES),
    "export card": (export("card"), "--model", REPLIES | {"classifier"}),
    "export parlai": (export("parlai"), "--model", set()),
    "-m prosocial": (generator_agent, "--backbone", BASES),
    "--init-model": (continued_agent, "--init-model", {"checkpoint", "zoo base", "zoo tuned"}),
    "-m prosocial/classifier": (classifier_agent, "--backbone", BASES),
    "--safety-model": (safety_model, "--safety-model", {"classifier"}),
    "safety-bench": (safety_bench, "--model", (REPLIES - {"adapter"})),
    "train, compare, ablate": (base_of_recipes, "--base", BASES),
    "judge classifier": (judge("classifier"), "--judge classifier:", {"classifier"}),
    "judge hf": (judge("hf"), "--judge hf:", set()),
    "judge llama-guard": (judge("llama-guard"), "--judge llama-guard:", BASES | {"address"}),
    "judge parlai": (judge("parlai"), "--judge parlai:", set()),
    "Prosocial": (api("model"), "model", REPLIES),
    "Prosocial, classifier": (api("classifier"), "classifier", {"classifier"}),
    "Prosocial, rot_model": (api("rot_model"), "rot_model", REPLIES),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", USERS)
def test_opened_or_refused_by_the_flag(user, kind, names, made, tmp_path, monkeypatch):
    run, flag, accepted = USERS[user]
    monkeypatch.setattr("parlai_prosocial.chat.server.serve", lambda app, listening: None)
    if kind in accepted:
        run(names[kind], tmp_path / "out", made)
        return
    with pytest.raises(UserError) as error:
        run(names[kind], tmp_path / "out", made)
    message = str(error.value)
    assert message.startswith(flag) and "\n" not in message
    assert names[kind] in message
    assert not list(tmp_path.glob("*.part"))


def test_a_gguf_file_is_converted_once_and_replies_as_its_folder(names, made, tmp_path):
    found = find(names["gguf"], "--model", str(tmp_path))
    made_at = (found.place / "model.safetensors").stat().st_mtime_ns
    again = find(names["gguf"], "--model", str(tmp_path))
    assert again.place == found.place
    assert (again.place / "model.safetensors").stat().st_mtime_ns == made_at
    folder = Prosocial.from_pretrained(made / "exported").reply(["Hi!"])
    file = Prosocial.from_pretrained(names["gguf"], datapath=str(tmp_path)).reply(["Hi!"])
    assert file.text == folder.text
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"--model .*broken\.gguf: transformers cannot read it"):
        find(tmp_path / "broken.gguf", "--model", str(tmp_path))
    assert not list(tmp_path.rglob("*.part"))


def test_an_adapter_made_by_others_replies_as_peft_does(made, tiny_backbones):
    from peft import PeftModel

    lm = AutoModelForCausalLM.from_pretrained(tiny_backbones["llama"])
    folder = made / "lora-changed"
    adapted = get_peft_model(lm, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.save_pretrained(folder)
    opened = open_generator(folder)
    context = torch.tensor([opened.backbone.prompt.encode_context("Hi!")])
    plain = AutoModelForCausalLM.from_pretrained(tiny_backbones["llama"])
    expected = PeftModel.from_pretrained(plain, str(folder)).eval()(input_ids=context).logits
    torch.testing.assert_close(opened.backbone.lm(context).logits, expected, atol=1e-4, rtol=0)
    config = read_json(folder / "adapter_config.json")
    for change, message in (
        ({"base_model_name_or_path": "/no/where"}, r"lora-changed: its base /no/where: no such"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "type PROMPT_TUNING"),
        ({"task_type": "SEQ_CLS"}, "for SEQ_CLS"),
    ):
        write_json(folder / "adapter_config.json", config | change)
        with pytest.raises(UserError, match=rf"--model .*{message}"):
            open_generator(folder, "--model")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "~/nowhere"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(UserError) as error:
        find_base(name)
    assert str(error.value).startswith(f"--backbone {name}: no such model file or folder")


def test_near_misses_are_suggested(made, tmp_path):
    with pytest.raises(UserError, match=r"did you mean zoo:prosocial/smollm2_135m_prosocial\?"):
        find("zoo:prosocial/smollm2_135m_prosocal", "--model", str(tmp_path))
    with pytest.raises(UserError, match=r"no config\.json there; did you mean .*run/model\?"):
        find(made / "run", "--model")
    with pytest.raises(UserError, match=r"did you mean .*/run\?"):
        find(made / "runn", "--model")


def test_a_revision_of_the_hub_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--bot"
    for ref, commit in (("main", "a" * 40), ("refs/pr/7", "b" * 40)):
        (repository / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert find_base("someone/bot").name == "a" * 40
    assert find_base("someone/bot@refs/pr/7").name == "b" * 40
    with pytest.raises(UserError, match=r"--backbone someone/bot@v2: no such model .*Hugging Face"):
        find_base("someone/bot@v2")


def test_a_tuned_model_is_no_base_and_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "install", None)
    with pytest.raises(UserError, match=r"--base .*go on from it with --init-model zoo:"):
        find_base("zoo:prosocial/smollm2_135m_mle", "--base", str(tmp_path))


def test_classifiers_open_by_name(names, made):
    by_name, by_path = (open_classifier(n) for n in (names["classifier"], made / "judge/model"))
    texts = (["Hi!"], ["Hello."])
    torch.testing.assert_close(by_name.probabilities(*texts), by_path.probabilities(*texts))
    assert find(names["classifier"], "x").kind is Kind.CLASSIFIER
