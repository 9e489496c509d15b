"""A model goes to a hub when somebody asks, and nothing is sent otherwise: tried on a local one."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from huggingface_hub import constants
from pipeline_cases import SMALLEST_RUN, arguments, random_moe, refused, save, status

from pipelines import rl
from pipelines.errors import UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.hub import check_push, push

pytestmark = pytest.mark.timeout(900)
TOKEN = "hf_of_a_test"


class Hub(ThreadingHTTPServer):
    """As much of a hub as a push asks; it remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.is_full, self.role = False, "write"


def asked(hub: Hub) -> list[str]:
    """All requests but one of huggingface_hub's own, which looks up who may be calling it."""
    return [path for path in hub.asked if path != "/api/agent-harnesses"]


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""

    def _reply(self, content: object, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply({"error": "Invalid user token"}, 401)
        else:
            auth = {"accessToken": {"role": self.server.role}}
            self._reply({"name": "me", "type": "user", "orgs": [{"name": "ours"}], "auth": auth})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = f"http://127.0.0.1:{self.server.server_port}"
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            self._reply({"url": f"{host}/me/model", "name": "me/model", "id": "1"})
        elif "/preupload/" in self.path:
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named]
            self._reply({"files": modes})
        elif "/commit/" in self.path and not self.server.is_full:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            commit = "0" * 40
            url = f"{host}/me/model/commit/{commit}"
            self._reply({"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._reply({"error": "the disk is full"}, 400)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local hub, for which this process has a token."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token here"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_nothing_is_sent_by_a_run_that_does_not_ask_and_the_model_by_one_that_does(
    hub: Hub, tmp_path: Path
) -> None:
    model = save(random_moe(character_tokenizer()), tmp_path / "moe")
    run, printed = tmp_path / "run", StringIO()
    with redirect_stdout(printed):
        assert rl.main(arguments(model, run, *SMALLEST_RUN, "run.rounds=1")) == 0
        assert asked(hub) == [] and not hub.made and not hub.files
        assert rl.main(["--resume", str(run), "run.rounds=2", "run.push_to=me/model"]) == 0
    (made,) = hub.made
    assert (made["organization"], made["name"]) == ("me", "model")
    assert made.get("visibility") == "private" or made.get("private") is True
    learner = run / "checkpoints" / "round_00001" / "learner"
    assert hub.files == {path.name: path.read_bytes() for path in learner.iterdir()}
    pushed = str(status(run)["pushed"])
    assert pushed.startswith("pushed to ") and f"\n{pushed}\n" in printed.getvalue()
    last = printed.getvalue().rstrip().splitlines()[-1]
    assert last.startswith(f"model: {learner}; next: ")


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("model", "run.push_to = model is not of the form owner/name"),
        ("me/mo del", "run.push_to = me/mo del: Repo id must use alphanumeric chars"),
        ("you/model", "run.push_to = you/model: this token is of me, ours: push there"),
    ],
)
def test_a_push_that_could_not_succeed_is_refused(hub: Hub, repository: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_push(repository)
    assert said in str(caught.value)
    assert not hub.made and not hub.files
    check_push("ours/model")


def test_without_a_token_the_run_does_not_begin(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    command = arguments(tmp_path / "moe", tmp_path / "run", "run.push_to=me/model")
    line = refused(capfd, rl.main, command)
    assert "run.push_to = me/model: there is no token for the hub: log in with `hf auth" in line
    assert asked(hub) == [] and not (tmp_path / "run").exists()

    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "run.push_to = me/model: the hub does not know this token" in refused(
        capfd, rl.main, command
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids it" in refused(capfd, rl.main, command)


def test_a_token_that_may_only_read_is_refused_before_the_run(hub: Hub) -> None:
    hub.role = "read"
    with pytest.raises(UserError, match="this token may only read"):
        check_push("me/model")
    hub.role = "fineGrained"
    check_push("me/model")


def test_a_hub_that_does_not_answer_is_not_said_to_know_no_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1 does not answer: "):
        check_push("me/model")


def test_a_push_that_fails_is_told_with_what_to_type(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    hub.is_full = True
    said = push(tmp_path, "me/model")
    assert said.startswith("not pushed to me/model: ")
    assert said.endswith(f"; by hand: hf upload me/model {tmp_path}")
    assert TOKEN not in said
