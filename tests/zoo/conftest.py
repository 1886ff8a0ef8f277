"""A server of files on this machine that can be told to misbehave."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

PAGE = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


class Files:
    """What is served by path, how (``way``), and which ranges were asked for."""

    def __init__(self):
        self.served: dict[str, bytes] = {}
        self.way = "well"
        self.ranges: list[str | None] = []
        self.url = ""


@pytest.fixture
def server():
    """A running server; ``server.served["/a"] = b"..."``, ``server.way = "breaking"``."""
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            files.ranges.append(asked)
            content = files.served.get(self.path)
            if content is None:
                return self.send_error(404)
            kind = "application/octet-stream"
            if files.way == "page":
                content, kind, asked = PAGE, "text/html; charset=utf-8", None
            elif files.way == "page in disguise":
                content, asked = PAGE, None
            elif files.way == "without ranges":
                asked = None
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
            if asked and begin >= len(content):
                return self.send_error(416)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) - begin))
            if asked:
                self.send_header(
                    "Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            end = begin + (len(content) - begin) // 2 if files.way == "breaking" else len(content)
            self.wfile.write(content[begin:end])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        files.url = f"http://127.0.0.1:{running.server_port}"
        Thread(target=running.serve_forever, daemon=True).start()
        yield files
        running.shutdown()
