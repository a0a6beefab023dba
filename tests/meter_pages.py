"""A server of pages for meters: what it says, how late and whether at all is set by the test."""

import http.server
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

__all__ = ["PageServer", "serving"]


class PageServer(http.server.ThreadingHTTPServer):
    """Answers with what `page` returns for a path and its query; ``None`` is 404."""

    daemon_threads = True
    page: Callable[..., str | None]
    status = 200
    date: str | None = None
    """What its Date says; ``None``: the truth."""
    hangs = threading.Event()
    """Set: an answer waits until it is cleared or the server ends."""
    seen: dict[str, str]

    def __init__(self, page: Callable[[str, dict[str, list[str]]], str | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page = page
        self.hangs = threading.Event()
        self.ended = threading.Event()
        self.seen = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up early is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, PageServer)
        while server.hangs.is_set() and not server.ended.is_set():
            time.sleep(0.005)
        parts = urlsplit(self.path)
        server.seen = dict(self.headers.items())
        text = server.page(parts.path, parse_qs(parts.query))
        body = (text or "").encode()
        self.send_response(404 if text is None else server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        server = self.server
        assert isinstance(server, PageServer)
        return server.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base's name
        pass


@contextmanager
def serving(page: Callable[[str, dict[str, list[str]]], str | None]) -> Generator[PageServer]:
    """Serve until the end of the block."""
    server = PageServer(page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
