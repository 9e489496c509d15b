"""The key of a judge's API: sent, and shown to nobody."""

import html
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from judge_cases import TASK, scores, settings_of
from judge_server import Answer, judge_server, says

from data.errors import MAX_REASON, UserError
from pipelines.settings.load import load_settings
from rewards.judge import Judge


def test_a_key_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(lambda prompt, n: says("Score: 1")) as server:
        judge = Judge(settings_of(server, api_key_variable="NO_KEY"))
        for value in ("", " "):
            monkeypatch.setenv("NO_KEY", value)
            with pytest.raises(UserError, match="no key in NO_KEY"):
                judge.prove(TASK)
        for value in ("ключ", "sk-secret\nabc", "sk-secret\x01abc"):
            monkeypatch.setenv("NO_KEY", value)
            with pytest.raises(UserError, match="key in NO_KEY holds a character that no") as told:
                judge.prove(TASK)
            assert "secret" not in str(told.value) and value not in str(told.value)
        assert not server.prompts


ECHOED = 'sk/7+"secret"&' + "x" * 300


@pytest.mark.parametrize(
    "answer",
    [
        Answer(f"bad key Bearer {ECHOED}".encode(), 401),
        Answer(json.dumps({"error": f"bad key {ECHOED}"}).encode(), 401),
        Answer(json.dumps({"error": ECHOED}).replace("/", "\\/").encode(), 401),
        Answer(f"<p>bad key {html.escape(ECHOED)}</p>".encode(), 403),
        Answer(f"no page /?key={quote(ECHOED, '')}".encode(), 404),
        Answer(f"{'y' * (MAX_REASON - 50)} {ECHOED}".encode(), 401),
        says(f"Bearer {ECHOED}"),
    ],
)
def test_no_message_shows_the_key(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a server echoes it, and wherever the message is cut."""
    monkeypatch.setenv("JUDGE_KEY", ECHOED)
    with judge_server(lambda prompt, n: answer) as server:
        given = {"api_key_variable": "JUDGE_KEY", "retries": 0}
        (found,) = scores(server, "x", **given)
        assert server.keys == {f"Bearer {ECHOED}"}, "it was sent"
        with pytest.raises(UserError) as told:
            Judge(settings_of(server, **given)).prove(TASK)
    for text in (found.failure, str(told.value)):
        assert "secret" not in text and "xxx" not in text, text


def test_a_short_key_does_not_change_what_a_score_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "7")
    with judge_server(lambda prompt, n: says("Score: 7")) as server:
        (found,) = scores(server, "x", api_key_variable="JUDGE_KEY")
    assert found.value == 0.7


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("base_url='http://me:sk-secret@h/v1'", "base_url: it holds a user or a password"),
        ("base_url='http://sk-secret@h'", "base_url: it holds a user or a password"),
        ("base_url='http://h', api_key_variable='sk-secret'", "api_key_variable: not the name of"),
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_shown(
    checkout: Path, given: str, told: str
) -> None:
    """It would stand in every run's `config.json`."""
    with pytest.raises(UserError) as refused:
        load_settings(checkout / "configs" / "tiny.toml", [f"rewards.judge={{model='m', {given}}}"])
    assert told in str(refused.value) and "secret" not in str(refused.value)
