"""Each mend of ParlAI's ways to chat, shown by what fails without it."""

import asyncio
import io
import json
import sys
import threading

import pytest
import websocket

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.data.example import BINARY_LABELS, SAFETY_LABELS
from parlai_prosocial.errors import UserError


@pytest.fixture(autouse=True)
def mended():
    compat.apply()


@pytest.fixture
def talk(monkeypatch, capsys, tmp_path):
    """``talk(text, **opt)``: what ``parlai safe_interactive`` prints, the text piped into it."""
    from parlai.scripts.safe_interactive import SafeInteractive

    def run(text, **opt):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        opt = opt or {"model": "fixed_response", "fixed_response": "Fine."}
        SafeInteractive.main(datapath=str(tmp_path), **({"safety": "none"} | opt))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("first", ["", "[EXIT]\n", "Hi!\n", "Hi!\n[EXIT]\n"])
def test_safe_chats_end(talk, first):
    printed = talk(first)
    assert printed.count("Fine.") == first.count("Hi!")
    assert printed.count("CHAT DONE") == 1


def test_safe_chats_begin_anew(talk):
    assert talk("[DONE]\nHi!\n").count("Fine.") == 1


def test_the_word_list_in_the_data_path_is_taken(talk, tmp_path):
    folder = tmp_path / "OffensiveLanguage"
    folder.mkdir()
    (folder / "OffensiveLanguage.txt").write_text("darn\nexit\n")
    printed = talk(
        "darn it\nHi!\n[EXIT]\n",
        model="fixed_response",
        fixed_response="Fine.",
        safety="string_matcher",
    )
    assert printed.count("could not process that message") == 1
    assert printed.count("Fine.") == 1


def classifier(folder, encoder, labels):
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    opt = {"model": "prosocial/classifier", "classes": labels, "backbone": str(encoder)}
    path = str(folder / "model")
    create_agent(ParlaiParser(True, True).parse_kwargs(model_file=path, **opt)).save()
    return path


def test_our_classifier_filters(talk, tmp_path, tiny_encoder, tiny_backbones, monkeypatch):
    from parlai.utils.safety import OffensiveLanguageClassifier

    path = classifier(tmp_path, tiny_encoder, BINARY_LABELS)
    judged = []

    def contains(self, text):
        assert self.model.opt["model_file"] == path
        label, _ = self.contains_offensive_language(text)
        judged.append((text, label))
        return text.startswith("I hate")

    monkeypatch.setattr(OffensiveLanguageClassifier, "__contains__", contains)
    backbone = {"backbone": str(tiny_backbones["llama"]), "label_truncate": 4}
    filtered = {"model": "prosocial", "safety": "classifier", "safety_model": path} | backbone
    printed = talk("I hate you\nHi!\n[EXIT]\n", **filtered)
    assert printed.count("could not process that message") == 1
    assert printed.count("[Prosocial]") == 1
    (first, _), (second, _), (reply, label) = judged
    assert (first, second) == ("I hate you", "Hi!")
    assert reply in printed and isinstance(label, bool)


def test_a_filter_needs_two_classes(tmp_path, tiny_encoder):
    from parlai.utils.safety import OffensiveLanguageClassifier

    path = classifier(tmp_path, tiny_encoder, SAFETY_LABELS)
    with pytest.raises(UserError, match=r"its classes are __casual__ .*needs __ok__ and __notok__"):
        OffensiveLanguageClassifier(custom_model_file=path)


@pytest.fixture
def service():
    """A websocket service's manager on a loop of its own, and its address."""
    import tornado.ioloop
    import tornado.web
    from parlai.chat_service.services.websocket.sockets import MessageSocketHandler
    from parlai.chat_service.services.websocket.websocket_manager import WebsocketManager

    manager = WebsocketManager.__new__(WebsocketManager)
    manager.subs, manager.on_message = {}, lambda message: None
    started = threading.Event()

    def make_app():
        arguments = {"subs": manager.subs, "message_callback": lambda m: manager.on_message(m)}
        app = tornado.web.Application([("/websocket", MessageSocketHandler, arguments)])

        def listen(port):
            server = tornado.web.Application.listen(app, port, "127.0.0.1")
            manager.port = next(iter(server._sockets.values())).getsockname()[1]
            tornado.ioloop.IOLoop.current().add_callback(started.set)

        app.listen = listen
        return app

    manager._make_app, manager.port = make_app, 0
    manager._manager_loop_fn = lambda: None

    def run():
        asyncio.set_event_loop(asyncio.new_event_loop())
        manager.start_task()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield manager
    manager.loop.add_callback(manager.loop.stop)
    thread.join(30)


def test_worlds_write_what_does_not_fit_the_buffer(service):
    """Stock: the second of them hangs, since its future wakes another loop."""
    large, count = "x" * 3_000_000, 3

    def world(message):
        socket = message["sender"]["id"]
        for _ in range(count):
            service.observe_message(socket, large, quick_replies={"begin": 1}.keys())
        service.observe_payload(socket, {"type": "image", "data": ""})

    service.on_message = lambda m: threading.Thread(target=world, args=(m,), daemon=True).start()
    client = websocket.create_connection(f"ws://127.0.0.1:{service.port}/websocket", timeout=60)
    client.send('{"text": "Hi"}')
    for _ in range(count):
        assert json.loads(client.recv()) == {"text": large, "quick_replies": ["begin"]}
    assert json.loads(client.recv())["payload"] == {"type": "image", "data": ""}
    client.close()


def test_worlds_and_loop_write_at_the_same_time(service):
    """Stock: BufferError and AssertionError in tornado, or the connection breaks."""
    count, worlds = 100, 4

    def world(socket, name):
        for i in range(count):
            service.observe_message(socket, f"{name}:{i}:" + "x" * 20_000)

    def start(message):
        for name in range(worlds):
            arguments = (message["sender"]["id"], name)
            threading.Thread(target=world, args=arguments, daemon=True).start()

    service.on_message = start
    client = websocket.create_connection(
        f"ws://127.0.0.1:{service.port}/websocket", timeout=60, enable_multithread=True
    )
    client.send('{"text": "Hi"}')
    done = threading.Event()

    def ping():
        while not done.wait(0.001):
            client.ping("x" * 100)

    pinging = threading.Thread(target=ping, daemon=True)
    pinging.start()
    got: dict[str, list[int]] = {}
    for _ in range(count * worlds):
        name, number, _ = json.loads(client.recv())["text"].split(":")
        got.setdefault(name, []).append(int(number))
    done.set()
    pinging.join()
    assert got == {str(name): list(range(count)) for name in range(worlds)}
    client.close()


def test_the_loop_itself_can_write(service):
    """As for the question for --password; stock: a second loop cannot run in its thread."""
    service.on_message = lambda m: service.observe_message(m["sender"]["id"], "The password?")
    client = websocket.create_connection(f"ws://127.0.0.1:{service.port}/websocket", timeout=60)
    client.send('{"text": "Hi"}')
    assert json.loads(client.recv())["text"] == "The password?"
    client.close()


def test_a_person_who_left_stops_nobody(service):
    service.observe_message("nobody", "Hello?")


def test_who_waits_for_the_page_is_told_why_it_does_not_open(tmp_path, monkeypatch):
    import parlai.scripts.interactive_web as script
    from parlai.core.build_data import DownloadableFile

    def fail(file, folder):
        raise UserError(f"{file.file_name} cannot be fetched")

    monkeypatch.setattr(DownloadableFile, "download_file", fail)

    def serve():  # its world reads personas
        with pytest.raises(UserError):
            script.InteractiveWeb.main(
                model="repeat_query", task="convai2", port=0, datapath=str(tmp_path)
            )

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with pytest.raises(UserError, match="convai2"):
        script.wait()
    thread.join(30)


def test_the_page_of_a_task_opens(own_datapath):
    import parlai.scripts.interactive_web as script

    options = {"model": "repeat_query", "task": "prosocial", "port": 0}
    thread = threading.Thread(
        target=script.InteractiveWeb.main, kwargs=options | {"datapath": str(own_datapath)}
    )
    thread.start()
    script.wait()
    assert script.SHARED["agent"].opt["task"] == "prosocial"
    script.shutdown()
    thread.join(30)
    assert not thread.is_alive()
