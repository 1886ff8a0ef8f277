"""Ten turns with a tiny model through ParlAI's own chat services, as users start them."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import websocket
import yaml

import parlai_prosocial
from parlai_prosocial.util.files import write_json
from parlai_prosocial.zoo.bases import smollm2
from parlai_prosocial.zoo.bases.folder import RECORD

CONFIG = Path(parlai_prosocial.__file__).parent / "recipes" / "chat_service" / "config.yml"
STARTS_IN = 120
"""Most seconds until the server listens."""


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_backbones, tiny_encoder):
    """The packaged configuration, with a tiny model in the zoo's place and a tiny classifier."""
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    folder = tmp_path_factory.mktemp("service")
    installed = folder / "data" / "models" / "prosocial" / smollm2.NAME
    shutil.copytree(tiny_backbones["llama"], installed / "hf")
    write_json(installed / "hf" / RECORD, {"sha256": smollm2.GGUF_SHA256})
    models = {
        installed / "model": {"model": "prosocial", "backbone": str(installed / "hf")},
        folder / "judge": {
            "model": "prosocial/classifier",
            "backbone": str(tiny_encoder),
            "binary": True,
        },
    }
    for file, opt in models.items():
        create_agent(ParlaiParser(True, True).parse_kwargs(model_file=str(file), **opt)).save()
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    model = settings["opt"]["models"]["blender_90M"]
    assert model["model_file"] == f"zoo:prosocial/{smollm2.NAME}/model"
    override = {"show_rot": True, "show_safety": True, "safety_model": str(folder / "judge")}
    model["override"] |= override | {"label_truncate": 8}
    settings["max_workers"] = 2
    (folder / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "config.yml"


@pytest.fixture(params=["websocket", "terminal_chat"])
def port(request, config, tmp_path):
    """The port of the stock server, started by its own script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"parlai.chat_service.services.{request.param}.run"
    command = [sys.executable, "-m", script, "--config-path", str(config), "--port", str(port)]
    log = tmp_path / "log"
    with open(log, "w") as stream:
        server = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PARLAI_DATAPATH": str(config.parent / "data")},
        )
        try:
            deadline = time.monotonic() + STARTS_IN
            while server.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.3)
            else:
                pytest.fail(f"the service does not listen: {log.read_text()[-2000:]}")
            yield port
        finally:
            server.kill()
            server.wait()


def test_ten_turns(port):
    client = websocket.create_connection(f"ws://127.0.0.1:{port}/websocket", timeout=60)

    def say(text):
        client.send(json.dumps({"text": text}))
        return json.loads(client.recv())["text"]

    assert "begin" in say("Hi")
    assert "[DONE]" in say("begin")
    replies = [say(f"I walked in the park on day {day}. And you?") for day in range(10)]
    for reply in replies:
        *_, rot, message, answer = reply.split("\n")
        assert rot == "[rule of thumb: none was written]"
        for line in (message, answer):
            assert line.startswith("[safety of ")
            assert "__ok__" in line or "__notok__" in line
    assert len(set(replies)) > 1
    assert say("[RESET]") == "[History Cleared]"
    assert "begin" in say("[DONE]")
    client.close()


def connect(port, **settings):
    return websocket.create_connection(f"ws://127.0.0.1:{port}/websocket", timeout=60, **settings)


def test_people_who_leave_without_a_word_free_their_places(port):
    for words in (["Hi"], ["Hi", "begin"], ["Hi"], ["Hi", "begin"], ["Hi", "begin"]):
        client = connect(port)
        for word in words:
            client.send(json.dumps({"text": word}))
            client.recv()
        client.close()
    client = connect(port)
    client.send(json.dumps({"text": "Hi"}))
    assert "begin" in json.loads(client.recv())["text"]
    client.close()


def test_the_door_of_the_service(port):
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        connect(port, origin="http://example.org")
    client = connect(port)
    for bad in ("{", "[" * 60_000, '["Hi"]', '{"text": 1}'):
        client.send(bad)
        assert "JSON" in json.loads(client.recv())["text"]
    client.send(json.dumps({"text": "x" * 70_000}))
    # Closed: by a frame that says so, or before that frame was read.
    closed = (websocket.WebSocketConnectionClosedException, ConnectionError)
    with contextlib.suppress(*closed):
        opcode, data = client.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE, data
    with pytest.raises(closed):
        client.send(json.dumps({"text": "Hi"}))
        client.recv()
    # Another address of this machine than the one that the configuration names.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0
