"""Make the files of this folder anew, with the package as it was at commit a40c60a.

    OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 python make.py FOLDER

with that commit's own interpreter. FOLDER must not exist. All paths in the commands are relative to
it; what of this machine's folders is left in the files becomes ``@FOLDER@`` and ``@PYTHON@``.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = Path(__file__).parent / "files"
BIN = Path(sys.executable).parent
TEXTS = [
    "I feel tired today. You could rest, and drink some water.",
    "Is it fine to take what is not mine? It is not kind to steal from others.",
    "user: assistant: system your persona: rule of thumb: hello there, how are you?",
    "What do you like to do on Sundays? I like to walk in the park with my dog.",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(special, **settings):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **settings)


def make_bases(folder):
    """``base``, a llama as SmolLM2 is one, and ``encoder``, a BERT; random, of some 10 kB each."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    words = tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            num_hidden_layers=1,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=True,
            initializer_range=0.2,
            **sizes,
        )
    ).save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = tokenizer(list(names.values()), **names)
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    BertModel(
        BertConfig(
            vocab_size=len(words),
            num_hidden_layers=1,
            max_position_embeddings=256,
            initializer_range=0.2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **sizes,
        )
    ).save_pretrained(folder / "encoder")
    words.save_pretrained(folder / "encoder")


class Model(BaseHTTPRequestHandler):
    """What answers for ``http://made-before.invalid/v1#said``, as a proxy; see the test."""

    lines: tuple[str, ...] = ()
    left = 10**6

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Model.left -= 1
        last = asked["messages"][-1]["content"]
        line = self.lines[(sum(last.encode()) + asked["seed"]) % len(self.lines)]
        if "__casual__" in asked["messages"][0]["content"]:
            line = "__needs_caution__\nrule of thumb: It is not kind to steal."
        answer = {"choices": [{"message": {"content": line}, "finish_reason": "stop"}]}
        data = json.dumps(answer).encode()
        self.send_response(200 if Model.left >= 0 else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def run(folder, *command, status=0):
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PARLAI_DATAPATH": str(folder / "data")},
    )
    assert done.returncode == status, command


OWN = ["-t", "prosocial:Own", "--prosocial-data", "talk.jsonl"]
TRAIN = ["--batchsize", "2", "--learningrate", "0.01", "--lr-scheduler", "none"]
TRAIN += ["--text-truncate", "96", "--label-truncate", "12", "--skip-generation", "true"]
TRAIN += ["--max-train-steps", "3", "--validation-every-n-steps", "1", "--save-after-valid", "true"]
TRAIN += ["--validation-metric", "ppl", "--optimizer", "adamw", "--log-every-n-steps", "1"]
GENERATOR = ["train_model", "-m", "prosocial", *OWN, *TRAIN, "--backbone", "base"]
GENERATOR += ["--precision", "fp32"]
ADDRESS = "http://made-before.invalid/v1#said"
CLASSES = ["__casual__", "__needs_caution__", "__needs_intervention__"]
MINE = ["prosocial", "mine", "--model", ADDRESS, "--task", "prosocial:Own"]
MINE += ["--set", "prosocial_data=talk.jsonl", "--judge", "classifier:judge/model"]
MINE += ["--samples", "2", "--synthetic-cap", "0", "--threshold", "0.66", "--judge-casual"]
MINE += ["--concurrency", "1", "--seed", "3"]
ANNOTATE = ["prosocial", "annotate", "--task", "prosocial:Own", "--rot-model", ADDRESS]
ANNOTATE += ["--set", "prosocial_data=talk.jsonl", "--limit", "4", "--concurrency", "1"]
EVALUATE = ["prosocial", "evaluate", "--model", f"said={ADDRESS}", "--model", "lora=lora/model"]
EVALUATE += ["--suite", "talk.jsonl", "--judge", "classifier:judge/model", "--max-tokens", "8"]
EVALUATE += ["--concurrency", "1", "--allow-mining-judge"]


def main(folder):
    folder.mkdir(parents=True)
    shutil.copyfile(FILES / "talk.jsonl", folder / "talk.jsonl")
    make_bases(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = f"http://127.0.0.1:{server.server_port}"
    Model.lines = tuple(json.loads((FILES / "said.json").read_text()))

    run(folder, "parlai", *GENERATOR, "-mf", "first/model", "--lora-rank", "2")
    run(
        folder,
        *["parlai", *GENERATOR, "-mf", "lora/model", "--lora-rank", "2"],
        *["--init-model", "first/model", "--contrast-score", "likelihood+cosine"],
    )
    run(folder, "parlai", *GENERATOR, "-mf", "full/model", "--lora-rank", "0")
    judge = ["train_model", "-m", "prosocial/classifier", "-t", "prosocial:Safety", *OWN[2:]]
    judge += ["--prosocial-sample", "true", *TRAIN[:4], "--max-train-steps", "3"]
    judge += ["--validation-max-exs", "4", "--short-final-eval", "true", "--backbone", "encoder"]
    run(folder, "parlai", *judge, "-mf", "judge/model", "--lora-rank", "2")
    run(folder, "prosocial", "export", "hf", "--model", "full/model", "--out", "exported")

    run(folder, *MINE, "--out", "mined.jsonl")
    Model.left = 70  # of the second chunk's calls the first six
    run(folder, *MINE, "--out", "stopped.jsonl", status=1)
    Model.left = 10**6
    run(folder, *ANNOTATE, "--out", "annotated.jsonl")
    run(folder, *EVALUATE, "--out", "evaluated")
    run(folder, "python", "-c", RECORD)
    clean(folder)


RECORD = """
import json
from parlai.scripts.eval_model import EvalModel
from parlai_prosocial import Prosocial

own = dict(task="prosocial:Own", prosocial_data="talk.jsonl", datatype="test")
found = {}
for model in ("lora/model", "full/model", "exported"):
    reply = Prosocial.from_pretrained(model, classifier="judge/model").reply(["Hi!"])
    found[model] = {"reply": reply.text, "scores": reply.scores}
    found[model]["safety"] = reply.turn_safety.probabilities
    if model != "exported":
        report = EvalModel.main(model_file=model, skip_generation=True, batchsize=2, **own)
        found[model]["ppl"] = report["ppl"].value()
with open("expected.json", "w") as file:
    json.dump(found, file, indent=1)
"""


def clean(folder):
    """Leave what the test needs, and of this machine nothing."""
    for path in [folder / "data", *folder.glob("f*/model.checkpoint*"), *folder.rglob("*.test")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in [*folder.rglob("*.valid"), *folder.glob("*/model.hf-*/README.md")]:
        path.unlink()
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        for there, name in ((folder, b"@FOLDER@"), (BIN.parent, b"@PYTHON@")):
            if str(there).encode() in data:
                assert path.suffix not in (".safetensors", ".pt"), path
                data = data.replace(str(there).encode(), name)
        path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
