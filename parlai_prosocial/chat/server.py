"""The local page's server: Starlette, on uvicorn.

Not Gradio, which was tried first: it can be kept from the network, but Gradio 6.31 refuses the
pillow 13 that we test with and brings 83 MB of its own and some 25 packages more; and labels, flags
with a reason and two replies on one history would be written by hand there too. These two take
2 MB and are what ``transformers serve`` runs on.

The page keeps the conversation and sends it with every request; the server keeps none. It answers
requests to ``127.0.0.1`` and ``localhost`` only, none that a page of another site sends (Origin),
and only JSON, which such a page cannot send without asking. The page may load and ask nothing but
this server (Content-Security-Policy).

A model writes one reply at a time; :data:`MOST_WAITING` more may wait for it, and the next one is
told to come again (503). They wait in the event loop and not in its threads, of which a waiting
crowd would take all, the writing reply's too.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from parlai_prosocial.chat.talking import StreamingModel, judge
from parlai_prosocial.chat.transcript import (
    check_transcript,
    conversations_line,
    own_lines,
    own_rows,
)
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.classifier import SafetyClassifier

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
LARGEST_REQUEST = 32_000_000
"""Bytes of a whole conversation that is to be exported."""
LARGEST_TURN = 64_000
"""Bytes of a turn that a model or the classifier is to read: hours of reading aloud."""
LARGEST_DIALOGUE = 1_000_000
"""Bytes of all turns that a model or the classifier is to read."""
MOST_WAITING = 64
"""Replies that may wait for a model beside the one that it writes."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ChatApp:
    """The page, its models' replies as they are written, and its exports.

    Args:
        models: one or two.
        classifier: labels messages and replies, where it is given; ``classifier_name`` says which.
    """

    def __init__(
        self,
        models: list[StreamingModel],
        classifier: SafetyClassifier | None = None,
        classifier_name: str | None = None,
    ):
        self.models = models
        self.classifier = classifier
        self.classifier_name = classifier_name
        self._queues = [_Queue() for _ in models]

    def starlette(self) -> Starlette:
        styles_and_scripts = [*PAGE.glob("*.css"), *PAGE.glob("*.js")]
        files = {"/": "index.html"} | {f"/{file.name}": file.name for file in styles_and_scripts}
        return Starlette(
            routes=[
                *(Route(path, _file(name)) for path, name in files.items()),
                Route("/setup", self.setup),
                Route("/judge", self.judge, methods=["POST"]),
                Route("/reply", self.reply, methods=["POST"]),
                Route("/export/conversations", self.export_conversations, methods=["POST"]),
                Route("/export/own", self.export_own, methods=["POST"]),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
                Middleware(_FromThisPage),
            ],
            exception_handlers={UserError: _bad_request, HTTPException: _refused},
        )

    async def setup(self, request: Request) -> Response:
        names = [model.name for model in self.models]
        about = {"models": names, "classifier": self.classifier_name, "largest_turn": LARGEST_TURN}
        return _json(about)

    async def judge(self, request: Request) -> Response:
        """``{"turns": [TEXT, ...]}`` -> the last one's label, null without a classifier."""
        turns = _turns(await _content(request))
        return _json(await to_thread.run_sync(self._judge, turns))

    def _judge(self, turns: list[str]) -> dict[str, Any] | None:
        return None if self.classifier is None else judge(self.classifier, turns)

    async def reply(self, request: Request) -> Response:
        """``{"model": INDEX, "turns": [TEXT, ...], "again": BOOL}`` -> JSON Lines.

        Each line is what is written so far, ``{"text", "rots"}``; the last one has ``"safety"``
        too, or it is ``{"error": TEXT}``.
        """
        content = await _content(request)
        turns = _turns(content)
        number = content.get("model")
        if type(number) is not int or number not in range(len(self.models)):
            raise UserError(f"model: give a number from 0 to {len(self.models) - 1}")
        queue = self._queues[number]
        if queue.waiting >= MOST_WAITING:
            raise HTTPException(503, f"{MOST_WAITING} replies are waiting; try again later")
        lines = self._reply_lines(self.models[number], turns, bool(content.get("again")))

        async def stream() -> AsyncIterator[str]:
            async with queue:
                try:
                    while line := await to_thread.run_sync(next, lines, None):
                        yield line
                finally:
                    lines.close()  # where the page has stopped listening, the model stops too

        return StreamingResponse(stream(), headers=HEADERS, media_type="application/x-ndjson")

    def _reply_lines(self, model: StreamingModel, turns: list[str], again: bool) -> Any:
        try:
            written = None
            for written in model.reply(turns, again):
                yield json.dumps({"text": written.text, "rots": written.rots}) + "\n"
            assert written is not None  # the last one is the whole reply
            safety = self._judge([*turns, written.text])
            yield json.dumps({"text": written.text, "rots": written.rots, "safety": safety}) + "\n"
        except UserError as error:
            yield json.dumps({"error": f"{model.name}: {error}"}) + "\n"
        except Exception as error:
            logger.exception("%s", model.name)
            yield json.dumps({"error": f"{model.name}: {error}"}) + "\n"

    async def export_conversations(self, request: Request) -> Response:
        transcript = check_transcript(await _content(request))
        return _json({"text": conversations_line(transcript), "turns": len(transcript["turns"])})

    async def export_own(self, request: Request) -> Response:
        rows, left_out = own_rows(check_transcript(await _content(request)))
        return _json({"text": own_lines(rows), "rows": len(rows), "left_out": left_out})


class _Queue:
    """One at a time, in the order in which they came; ``waiting`` says how many wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class _FromThisPage:
    """Refuses what a page of another address sends; a browser says where a page is from."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            origin = request.headers.get("origin")
            own = {f"http://{host}:{request.url.port or 80}" for host in (HOST, "localhost")}
            if origin is not None and origin not in own:
                refusal = _json({"error": f"from {origin[:100]}, which is not this page"}, 403)
                return await refusal(scope, receive, send)
        await self.app(scope, receive, send)


def _file(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        return FileResponse(PAGE / name, headers=HEADERS)

    return endpoint


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, headers=HEADERS)


async def _bad_request(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


async def _content(request: Request) -> Any:
    """The request's JSON, its lone surrogates, which no tokenizer takes, as question marks.

    Raises:
        HTTPException: it is none, or larger than :data:`LARGEST_REQUEST`.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    length = request.headers.get("content-length")
    if length is None:
        raise HTTPException(411, "say how long the request is")
    if int(length) > LARGEST_REQUEST:
        raise HTTPException(413, f"longer than {LARGEST_REQUEST:,} bytes")
    try:
        content = json.loads(await request.body())
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    # Nested too deep, and numbers of thousands of digits: RecursionError and ValueError.
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"no JSON that can be read: {error}") from None
    return json.loads(text)


def _turns(content: Any) -> list[str]:
    turns = content.get("turns") if isinstance(content, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) for t in turns):
        raise UserError("turns: give a list of texts, the person's last one at its end")
    if not turns[-1].strip():
        raise UserError("turns: the last one is empty")
    sizes = [len(turn.encode("utf-8")) for turn in turns]
    if max(sizes) > LARGEST_TURN:
        raise HTTPException(413, f"turns: one is longer than {LARGEST_TURN:,} bytes; shorten it")
    if sum(sizes) > LARGEST_DIALOGUE:
        raise HTTPException(
            413, f"turns: longer than {LARGEST_DIALOGUE:,} bytes together; leave the oldest out"
        )
    return turns


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address; raises :class:`UserError` where it is taken.

    Args:
        port: 0 takes any free one.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(f"--port {port}: cannot be had ({error}); give another one") from None
    return listening


def serve(app: ChatApp, listening: socket.socket) -> None:
    """Answer until the process is interrupted."""
    config = uvicorn.Config(app.starlette(), log_level="warning", lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])
