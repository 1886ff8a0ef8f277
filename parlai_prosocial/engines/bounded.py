"""HTTP answers that end: bounded in time from the first header on, and in size."""

import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

MOST_BYTES = 8 << 20
"""Of one answer: far more than the longest reply with its thoughts and log probabilities."""
_PIECE = 1 << 14


class TooMuch(Exception):
    """An answer that is too long, or too long under way."""


class _HeadersInTime:
    """Gives up a connection whose headers are not all there within its time-out.

    The socket's own limit is on each read, so a server that drips would keep us for ever.
    """

    def getresponse(self) -> Any:
        timer = threading.Timer(self.timeout, _shut, [self.sock])  # type: ignore[attr-defined]
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()


class _Connection(_HeadersInTime, HTTPConnection):
    pass


class _SafeConnection(_HeadersInTime, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection


class BoundedAdapter(HTTPAdapter):
    """For requests' sessions: headers arrive within the time-out of a call, or it fails."""

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}


def read_body(answer: requests.Response, deadline: float, most: int = MOST_BYTES) -> bytes:
    """The content of a streamed answer.

    Args:
        answer: of a request with ``stream=True``.
        deadline: on ``time.monotonic``'s clock.
        most: bytes, after decompression.

    Raises:
        TooMuch: it is longer, or not all there in time.
        requests.RequestException: the connection broke.
    """
    content = bytearray()
    try:
        # Not iter_content: that waits until it has all the bytes it asked for.
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            content += piece
            if len(content) > most:
                raise TooMuch(f"an answer of more than {most >> 20} MB")
            if time.monotonic() > deadline:
                raise TooMuch("an answer that did not end in time")
    except (HTTPError, HTTPException, OSError) as error:
        raise requests.ConnectionError(type(error).__name__) from None
    return bytes(content)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
