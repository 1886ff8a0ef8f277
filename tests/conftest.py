"""No test may ask a network, and none may depend on the machine's own settings."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# The commands under test are those beside this interpreter, its environment active or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# Set before anything imports huggingface_hub or ParlAI, and inherited by subprocesses.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models gain nothing from threads, and lose much where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEXTS = [
    "I feel tired today. You could rest, and drink some water.",
    "Is it fine to take what is not mine? It is not kind to steal from others.",
    "user: assistant: system your persona: rule of thumb: hello there, how are you?",
    "What do you like to do on Sundays? I like to walk in the park with my dog.",
]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are the template's default"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(special: list[str], **settings):
    """A byte-level BPE of some 350 tokens, of which ``special`` are the first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@pytest.fixture(scope="session")
def make_tokenizer():
    """``make_tokenizer(special, **settings)``: see :func:`tiny_tokenizer`."""
    return tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory) -> dict[str, Path]:
    """Folders of random models: gpt2, llama (ChatML, as SmolLM2's), t5 and blenderbot."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        BlenderbotConfig,
        BlenderbotForConditionalGeneration,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    root = tmp_path_factory.mktemp("backbones")
    tokenizers = {
        "gpt2": tiny_tokenizer(["<|endoftext|>"], eos_token="<|endoftext|>"),
        # SmolLM2's trap: padding and end of turn are one token, and <|endoftext|> is free.
        "llama": tiny_tokenizer(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            bos_token="<|im_start|>",
            eos_token="<|im_end|>",
            pad_token="<|im_end|>",
            chat_template=CHATML,
        ),
        "t5": tiny_tokenizer(["<pad>", "</s>"], pad_token="<pad>", eos_token="</s>"),
        "blenderbot": tiny_tokenizer(
            ["<pad>", "<s>", "</s>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>"
        ),
    }
    # As the real T5 tokenizer does, it ends every text by itself.
    tokenizers["t5"].backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    sizes = {name: len(tokenizer) for name, tokenizer in tokenizers.items()}
    torch.manual_seed(0)
    models = {
        "gpt2": GPT2LMHeadModel(
            GPT2Config(
                vocab_size=sizes["gpt2"],
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=512,
                bos_token_id=0,
                eos_token_id=0,
                initializer_range=0.2,
            )
        ),
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=sizes["llama"],
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=2,
                tie_word_embeddings=True,
                initializer_range=0.2,
            )
        ),
        "t5": T5ForConditionalGeneration(
            T5Config(
                vocab_size=sizes["t5"],
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
            )
        ),
        "blenderbot": BlenderbotForConditionalGeneration(
            BlenderbotConfig(
                vocab_size=sizes["blenderbot"],
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=512,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                forced_eos_token_id=None,
                init_std=0.2,
            )
        ),
    }
    # Else the tied embedding of the token read last decides alone what comes next.
    with torch.no_grad():
        for weight in models["t5"].decoder.block.parameters():
            weight.mul_(2)
        for weight in models["blenderbot"].model.decoder.layers.parameters():
            weight.mul_(2)
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizers[name].save_pretrained(root / name)
    return {name: root / name for name in models}


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """Folder of a random BERT whose tokenizer marks sentence pairs.

    As MiniLM's, it asks for every text to be filled up and cut.
    """
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = tiny_tokenizer(list(names.values()), **names)
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.enable_padding(length=24)
    backend.enable_truncation(24)
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def parlai_data(tmp_path_factory) -> Path:
    """A ParlAI data path with its safety tasks in their layout on disk, in lines of our own."""
    folder = tmp_path_factory.mktemp("parlai") / "data"
    return Path(shutil.copytree(Path(__file__).parent / "parlai_data", folder))


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """The address of a real ``transformers serve``, which loads the models it is asked for."""
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("before transformers 5 `transformers serve` streams, whatever it is asked")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with pytest.MonkeyPatch.context() as patch, open(log, "w") as stream:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("OPENAI_API_KEY", raising=False)
        command = ["transformers", "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            _wait_for_answer(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_answer(url: str, process: subprocess.Popen, log: Path) -> None:
    import requests

    deadline = time.monotonic() + 120  # it takes 10 seconds on two shared cores
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve does not answer: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def generator(tiny_backbones, tmp_path_factory):
    """The file of an untrained ``-m prosocial``, which decodes greedily."""
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    model_file = tmp_path_factory.mktemp("generator") / "model"
    opt = ParlaiParser(True, True).parse_kwargs(
        model="prosocial",
        backbone=str(tiny_backbones["llama"]),
        lora_rank=0,
        precision="fp32",
        label_truncate=8,
    )
    create_agent(opt).save(str(model_file))
    return model_file


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; what asks for it is skipped where the machine has none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe():
    """``axe(tab)``: what axe-core finds wrong with a page, a line each."""
    axe_core = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # It would ask the network for style sheets that it cannot read otherwise.
    options = {"preload": False, "resultTypes": ["violations"]}

    def violations(tab):
        found = axe_core.run(tab, options=options).response["violations"]
        return [f"{v['id']}: {n['html'][:200]}" for v in found for n in v["nodes"]]

    return violations


class ChatServer:
    """Speaks ``/v1/chat/completions``.

    Attributes:
        answer: from a request's body and how often it came before, to ``(status, payload)``; a
            text as payload is wrapped as a completion.
        content_type: of its answers.
        requests: the bodies, as they came.
        authorizations: their Authorization headers.
    """

    def __init__(self):
        self.answer = lambda body, before: (200, "Fine.")
        self.content_type = "application/json"
        self.requests, self.authorizations = [], []
        self.seen, self.lock = Counter(), threading.Lock()
        self.running, self.most_running = 0, 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with owner.lock:
                    owner.running += 1
                    owner.most_running = max(owner.most_running, owner.running)
                    owner.requests.append(json.loads(raw) | {"path": self.path})
                    owner.authorizations.append(self.headers["Authorization"])
                    before = owner.seen[raw]
                    owner.seen[raw] += 1
                status, payload = owner.answer(json.loads(raw), before)
                if isinstance(payload, str):
                    message = {"role": "assistant", "content": payload}
                    payload = {"choices": [{"message": message, "finish_reason": "stop"}]}
                content = json.dumps(payload).encode()
                with owner.lock:
                    owner.running -= 1
                self.send_response(status)
                self.send_header("Content-Type", owner.content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that gave up waiting

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1#tiny"


@pytest.fixture
def chat_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = ChatServer()
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="session")
def own_datapath(tmp_path_factory):
    """An empty data path of ParlAI's, for every command and teacher of the session."""
    path = tmp_path_factory.mktemp("parlai_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(path))
        yield path
