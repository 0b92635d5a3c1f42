"""A proxy on loopback that refuses everybody, and repeats all that it was sent."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Refusing(BaseHTTPRequestHandler):
    """Answers 407 with the request line and the headers of the request."""

    def refuse(self) -> None:
        repeated = f"{self.requestline}\n{self.headers}".encode()
        self.send_response(407, "Proxy Authentication Required")
        self.send_header("Content-Length", str(len(repeated)))
        self.end_headers()
        self.wfile.write(repeated)

    do_GET = do_POST = do_CONNECT = refuse

    def log_message(self, *words: Any) -> None:
        """What it was sent is in its answers."""


class Proxy:
    """Use it with `with`; `address` is what a variable such as HTTP_PROXY says."""

    def __init__(self, user: str, password: str) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
        self.address = f"http://{user}:{password}@127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
