"""Repairs of ParlAI's ways to chat; :func:`parlai_prosocial.compat.patches.apply` applies it.

ParlAI's own clients of its chat services (``...terminal_chat.client``, ``...browser_chat.client``)
are programs that never import anything of ours, so they are left as they are.
"""

import functools
import json
import time
from contextlib import suppress
from types import ModuleType
from typing import Any


def mend_safe_human(human: ModuleType) -> None:
    """``parlai safe_interactive`` cannot be left, and knows one classifier.

    Its human filters ``[EXIT]`` as if it were talk, so a filter that minds it asks for ever, and
    stops with an EOFError where the input ends. Its classifier is always parl.ai's;
    ``--safety-model`` names another. Needed in all versions.

    Args:
        human: ``parlai.agents.safe_local_human.safe_local_human``.
    """
    original_reply = human.SafeLocalHumanAgent.get_reply
    original_safety = human.SafeLocalHumanAgent._init_safety

    @functools.wraps(original_reply)
    def get_reply(self) -> str:
        try:
            text: str = original_reply(self)
        except EOFError:
            text = "[EXIT]"
        if "[EXIT]" in text or "[DONE]" in text:
            self.finished = "[EXIT]" in text
            raise StopIteration
        return text

    @functools.wraps(original_safety)
    def _init_safety(self, opt) -> None:
        model = opt.get("safety_model")
        if not model or opt["safety"] not in ("classifier", "all"):
            return original_safety(self, opt)
        rest = "string_matcher" if opt["safety"] == "all" else "none"
        original_safety(self, {**opt, "safety": rest})

        from parlai.core.build_data import modelzoo_path

        file = modelzoo_path(opt["datapath"], model)
        self.offensive_classifier = human.OffensiveLanguageClassifier(custom_model_file=file)

    human.SafeLocalHumanAgent.get_reply = get_reply
    human.SafeLocalHumanAgent._init_safety = _init_safety


def mend_safe_script(script: ModuleType) -> None:
    """``parlai safe_interactive`` looks for the model's reply also where there is none yet.

    ``[DONE]`` or ``[EXIT]`` as the first input ends in a TypeError. Needed in all versions.

    Args:
        script: ``parlai.scripts.safe_interactive``.
    """
    create_task = script.create_task

    @functools.wraps(create_task)
    def create(*args: Any, **kwargs: Any) -> Any:
        world = create_task(*args, **kwargs)
        world.acts = [{} for _ in world.acts]
        return world

    script.create_task = create  # type: ignore[attr-defined]


def mend_web_script(script: ModuleType) -> None:
    """``interactive_web.wait()`` waits for ever where the page cannot be opened.

    A task's world may need data that cannot be fetched; whoever waits in another thread is told.
    Needed in all versions.

    Args:
        script: ``parlai.scripts.interactive_web``.
    """
    serve = script.interactive_web

    @functools.wraps(serve)
    def interactive_web(opt: Any) -> None:
        script.SHARED.pop("failure", None)
        try:
            serve(opt)
        except BaseException as error:
            script.SHARED["failure"] = error
            raise

    def wait() -> None:
        while not script.SHARED.get("ready"):
            if "failure" in script.SHARED:
                raise script.SHARED.pop("failure")
            time.sleep(0.01)

    script.interactive_web = interactive_web  # type: ignore[attr-defined]
    script.wait = wait  # type: ignore[attr-defined]


LARGEST_MESSAGE = 64_000
"""Bytes of a message to a chat service."""
SECONDS_BETWEEN_PINGS = 20
"""Of a chat service to its clients; one that does not answer for as long has vanished."""


class PersonLeft(Exception):
    """A world waits for the message of a person whose socket is closed."""


def mend_websocket_manager(module: ModuleType) -> None:
    """A chat service's worlds, sockets and door.

    **Threads.** It writes to its sockets from the threads in which its worlds run. tornado's
    streams belong to the thread of their loop. From another one, a message that does not fit the
    system's buffer is never finished, since its future wakes the wrong loop: the world hangs. Where
    the loop writes at the same time, to answer a ping, the stream's buffer is taken out twice: an
    AssertionError in tornado's ``iostream.py``, or a dead connection. And what the loop's own
    thread sends (the question for ``--password``) cannot run a second loop there. So every message
    is handed to the loop. Needed with every tornado that runs on asyncio (5 and later).

    **People who leave.** The world of a person who has left without a word waits for ever, in one
    of ``max_workers`` threads; when all of them wait, nobody is answered any more. Here their
    agents say what ends the chatbot's worlds (``exit``, ``[DONE]``), and raise in a world that
    minds neither. Sockets are pinged, so that a client that vanished is noticed. Needed in all
    versions.

    **The door.** It listens on every interface, to pages of every origin, to messages of 10 MB.
    Here it listens on ``address`` of the config's ``additional_args``, 127.0.0.1 where none is
    given; a page must be of the address that it asks; a message has at most
    :data:`LARGEST_MESSAGE` bytes, and one that is no JSON object is answered and not a traceback.

    Args:
        module: ``parlai.chat_service.services.websocket.websocket_manager``.
    """
    from tornado.ioloop import IOLoop
    from tornado.websocket import WebSocketClosedError, WebSocketHandler

    manager, handler = module.WebsocketManager, module.MessageSocketHandler
    start_task, make_app, create_agent = (
        manager.start_task,
        manager._make_app,
        manager._create_agent,
    )
    on_message = handler.on_message

    @functools.wraps(start_task)
    def start(self) -> None:
        self.loop = IOLoop.current()
        start_task(self)

    @functools.wraps(make_app)
    def make(self) -> Any:
        app = make_app(self)
        app.settings |= {
            "websocket_max_message_size": LARGEST_MESSAGE,
            "websocket_ping_interval": SECONDS_BETWEEN_PINGS,
            "websocket_ping_timeout": SECONDS_BETWEEN_PINGS,
        }
        address = self.config["additional_args"].get("address", "127.0.0.1")
        app.listen = functools.partial(app.listen, address=address)
        return app

    @functools.wraps(create_agent)
    def create(self, task_id, socket_id) -> Any:
        agent = create_agent(self, task_id, socket_id)
        agent.act = _ActWhileThere(self, agent)
        return agent

    @functools.wraps(on_message)
    def receive(self, text) -> None:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("text", ""), str):
            self.write_message(json.dumps({"text": 'Send JSON: {"text": "..."}'}))
            return
        on_message(self, text)

    def send(self, socket_id, message: dict) -> None:
        async def write() -> None:
            # A person who has left misses nothing.
            if socket_id in self.subs:
                with suppress(WebSocketClosedError):
                    await self.subs[socket_id].write_message(json.dumps(message))

        self.loop.add_callback(write)

    def observe_message(self, socket_id, message, quick_replies=None) -> None:
        send(self, socket_id, {"text": message, "quick_replies": _list(quick_replies)})

    def observe_payload(self, socket_id, payload, quick_replies=None) -> None:
        quick_replies = _list(quick_replies)
        send(self, socket_id, {"text": "", "payload": payload, "quick_replies": quick_replies})

    manager.start_task = start
    manager._make_app = make
    manager._create_agent = create
    manager.observe_message = observe_message
    manager.observe_payload = observe_payload
    handler.on_message = receive
    handler.check_origin = WebSocketHandler.check_origin


class _ActWhileThere:
    """An agent's ``act``: what the person said, or None; the world's last word once they left."""

    def __init__(self, manager: Any, agent: Any):
        self.manager, self.agent, self.act = manager, agent, agent.act
        self.told = False

    def __call__(self) -> dict[str, Any] | None:
        if self.agent.id in self.manager.subs:
            return self.act()
        if self.told:
            raise PersonLeft(f"{self.agent.task_id}: its person has left")
        self.told = True
        text = "exit" if self.agent.task_id.startswith("overworld-") else "[DONE]"
        return {"episode_done": True, "text": text, "payload": None}


def _list(quick_replies) -> list | None:
    return None if quick_replies is None else list(quick_replies)
