"""A real HTTP server in place of a judge's API, which answers, or misbehaves, as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What the server does with one request.

    Attributes:
        pause: seconds before the reply.
        drip: seconds between the reply's bytes.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    drip: float = 0.0


def says(text: object, finish_reason: str = "stop") -> Answer:
    """A chat completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Answer(json.dumps({"choices": [choice]}).encode())


class JudgeServer(ThreadingHTTPServer):
    """Keeps what it was asked and when.

    Args:
        answer: to a prompt, asked for the n-th time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.prompts: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.num_open = self.most_open = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked, server = body["messages"] if "messages" in body else body["prompt"], self.server
        prompt = asked if isinstance(asked, str) else asked[0]["content"]
        with server.lock:
            server.prompts.append(prompt)
            server.bodies.append({**body, "path": self.path})
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.num_open += 1
            server.most_open = max(server.most_open, server.num_open)
            answer = server.answer(prompt, server.prompts.count(prompt))
        try:
            server.stopped.wait(answer.pause)
        finally:
            with server.lock:
                server.num_open -= 1
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if not answer.drip:
            self.wfile.write(answer.body)
            return
        for byte in answer.body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if server.stopped.wait(answer.drip):
                return

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def judge_server(answer: Callable[[str, int], Answer]) -> Iterator[JudgeServer]:
    """The server, serving in a thread."""
    with JudgeServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()
