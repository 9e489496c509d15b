"""`sparring-data generate` from servers with an OpenAI-compatible API."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from judge_server import Answer, JudgeServer, judge_server, says

from data.dataset_folder import DatasetFolder
from pipelines.dataset import main
from pipelines.errors import UserError
from pipelines.synthesis import endpoint
from pipelines.synthesis.endpoint import EndpointSampler, urls_of

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tiny.toml"
TASKS = ["tasks.dialect=free", "tasks.source=jsonl", "tasks.params={}", "tasks.answer_in=boxed"]
DOWN = Answer(b"busy", status=503)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)


def adds(prompt: str, time: int) -> Answer:
    """The right sum, and at every third request for it a wrong one."""
    first, second = re.findall(r"What is (\d+) \+ (\d+)", prompt)[-1]
    return says(f"It is \\boxed{{{int(first) + int(second) + (time % 3 == 0)}}}")


def sampler(servers: Sequence[JudgeServer], **changed: object) -> EndpointSampler:
    urls = [server.url for server in servers]
    given = {"model": "m", "key_variable": "", "seed": 0, "max_tokens": 9, "temperature": 0.5}
    return EndpointSampler("learner", urls, **(given | changed))  # type: ignore[arg-type]


def prompts(num: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"What is {n} + 1"}] for n in range(num)]


def test_several_servers_share_the_requests() -> None:
    slow = Answer(says("x").body, pause=0.2)
    with judge_server(lambda *_: slow) as one, judge_server(lambda *_: slow) as two:
        found = sampler([one, two]).sample(prompts(8), "batch 0", 2)
        assert [len(group) for group in found] == [2] * 8
        assert len(one.prompts) == len(two.prompts) == 8
        bodies = [*one.bodies, *two.bodies]
    seeds = {body["seed"] for body in bodies}
    assert len(seeds) == 16 and {body["path"] for body in bodies} == {"/v1/chat/completions"}
    sent = {(body["temperature"], body["top_p"], body["max_tokens"]) for body in bodies}
    assert sent == {(0.5, 1.0, 9)}


def test_a_sample_knows_what_the_server_was_sent() -> None:
    reply = Answer(json.dumps({"choices": [{"text": "x", "message": {"content": "x"}}]}).encode())
    with judge_server(lambda *_: reply) as one:
        (chat,), (text,) = sampler([one]).sample([*prompts(1), "0 + 1 ="], "batch 0")
        by_path = {body["path"]: body for body in one.bodies}
    for sample, body in (
        (chat.sampled, by_path["/v1/chat/completions"]),
        (text.sampled, by_path["/v1/completions"]),
    ):
        assert (sample.seed, sample.temperature, sample.top_p) == (
            body["seed"], body["temperature"], body["top_p"],
        )  # fmt: skip
        assert (sample.model, sample.adapter, sample.max_new_tokens) == ("m", "", 9)
    assert json.loads(chat.sampled.rendered) == by_path["/v1/chat/completions"]["messages"]
    assert text.sampled.rendered == by_path["/v1/completions"]["prompt"] == "0 + 1 ="


def test_the_chat_template_gets_what_the_configuration_says() -> None:
    """Else a thinking model thinks in the data that it was trained not to think for."""
    reply = Answer(json.dumps({"choices": [{"text": "x", "message": {"content": "x"}}]}).encode())
    with judge_server(lambda *_: reply) as one:
        given = sampler([one], template={"enable_thinking": False})
        (chat,), _ = given.sample([*prompts(1), "0 + 1 ="], "batch 0")
        by_path = {body["path"]: body for body in one.bodies}
    sent = by_path["/v1/chat/completions"]
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in by_path["/v1/completions"]
    assert json.loads(chat.sampled.rendered) == {
        "messages": sent["messages"], "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip


def test_a_configured_template_reaches_the_server(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with judge_server(adds) as one:
        main([
            "generate", one.url, "--model", "m", "--config", str(CONFIG), "--num", "1",
            "--out", str(tmp_path / "out"), "--split", "train", *TASKS, f"tasks.path={path}",
            "learner.grpo.chat_template_kwargs={enable_thinking=false}",
            "critic.grpo.chat_template_kwargs={effort='low'}",
        ])  # fmt: skip
        given = [body["chat_template_kwargs"] for body in one.bodies]
    assert {str(one) for one in given} == {"{'enable_thinking': False}", "{'effort': 'low'}"}


def test_a_server_that_fails_is_left_for_another() -> None:
    with judge_server(lambda *_: DOWN) as bad, judge_server(lambda *_: says("x", "length")) as good:
        found = sampler([bad, good]).sample(prompts(6), "batch 0")
        assert [group[0].truncated for group in found] == [True] * 6
        assert len(good.prompts) == 6 and 1 <= len(bad.prompts) <= 6


def test_where_no_server_answers_it_is_one_line() -> None:
    tried = pytest.raises(UserError, match=r"no server answers, after 6 tries.*503: busy")
    with judge_server(lambda *_: DOWN) as one, tried:
        sampler([one]).sample(prompts(1), "batch 0")
    missing = Answer(b"no such model", status=404)
    refused = pytest.raises(UserError, match="refuses a request: status 404: no such model")
    with judge_server(lambda *_: missing) as one, refused:
        sampler([one]).sample(prompts(3), "batch 0")


def test_the_key_is_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    answer = Answer(b"bad key sk-secret", status=401)
    with judge_server(lambda *_: answer) as one:
        with pytest.raises(UserError, match=r"bad key \[key\]") as refused:
            sampler([one], key_variable="SOME_KEY").sample(prompts(1), "batch 0")
        assert one.keys == {"Bearer sk-secret"} and "secret" not in str(refused.value)
        with pytest.raises(UserError, match="no key in NO_KEY"):
            sampler([one], key_variable="NO_KEY")
        with pytest.raises(UserError, match="add --model NAME"):
            sampler([one], model="")
    assert urls_of("runs/tiny") == [] and urls_of("http://a/v1, http://b/v1/") == [
        "http://a/v1", "http://b/v1",
    ]  # fmt: skip


def test_a_set_is_generated_from_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"What is {n} + {n + 1}?", "answer": 2 * n + 1} for n in range(80)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    out = tmp_path / "set"
    with judge_server(adds) as one, judge_server(adds) as two:
        asked = ["generate", f"{one.url},{two.url}", "--config", str(CONFIG), "--model", "m",
                 "--out", str(out), "--num", "6", "--batch", "4", "--group", "3", "--no-critic",
                 *TASKS, f"tasks.path={tmp_path / 't.jsonl'}"]  # fmt: skip
        assert main(asked) == 0
        assert one.prompts and two.prompts
        more = [word if word != "6" else "9" for word in asked]
        assert main([*more, "--resume"]) == 0
    accepted = list(DatasetFolder(out).accepted.records())
    assert len(accepted) == 9 and {r.verdict_outcome for r in accepted} == {"correct"}
    assert {record.learner_hash for record in accepted} == {"model m behind an API"}
    assert len({record.sampling_seed for record in accepted}) == 9
    assert all(json.loads(r.rendered)[-1]["content"].count(r.prompt) == 1 for r in accepted)
    assert main(["verify", str(out)]) == 0
    card = (out / "README.md").read_text()
    for line in ("problems of `t.jsonl`: mit", "by `m`: unknown: check them", "`generate.json`"):
        assert line in card, line
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*asked[:2], "--out", str(tmp_path / "x"), "--num", "1", "--model", "m"])
    assert "add --config" in capsys.readouterr().err
