"""A model behind an OpenAI-compatible API as a scorer of completions.

    prompt -> POST /chat/completions -> the last line "Score: N" -> weight * N / best score

A request that fails in a way that may pass (no connection, a time-out, 408, 409, 429, 5xx) is tried
again, later and later, but a judgement without a score only once; the server's `Retry-After` holds
back all requests. What still fails, or is refused for good, says nothing about the completion,
which is then left out of training and counted, as with a user's function (`functions.py`): never a
silent 0. No message shows the API's key.
"""

import asyncio
import html
import json
import math
import os
import random
import re
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence

import httpx

from data.errors import MAX_REASON, UserError, reason
from data.records import Task
from rewards.functions import OwnReward
from rewards.judge_settings import ENDPOINT, JudgeSettings
from rewards.solution import Solution
from rewards.thinking import OPENED, after_thinking

RETRIED = frozenset({408, 409, 429})  # and every 5xx
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between two tries; each wait doubles
MAX_REPLY_BYTES = 2**20
# Why a server ended a reply that had not ended, beside "length": its last number may lack digits.
CUT_OFF = frozenset({"content_filter", "abort", "error", "insufficient_system_resource"})
GIVE_UP_AFTER = 2  # rounds of `concurrency` completions that all failed: nobody is there
# Emphasis of Markdown may stand around the word and the number.
_SCORE = re.compile(r"[*_]*Score[*_]*:[*_]* [*_]*([0-9]+(?:\.[0-9]+)?)[*_]*")
HIDDEN = "[key]"


class JudgeError(RuntimeError):
    """A request that gave no score.

    Args:
        what: happened, in words.
        passing: whether another try may help.
        wait: seconds that the server asks for.
    """

    def __init__(self, what: str, passing: bool, wait: float = 0.0) -> None:
        super().__init__(what)
        self.passing, self.wait = passing, wait


class UnreadableError(JudgeError):
    """A judgement without a score; what made the model write it is still there at another try."""

    def __init__(self, what: str) -> None:
        super().__init__(what, passing=True)


class Judge:
    """Scores completions, several at once."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._pace = Pace(settings.requests_per_minute)

    def prove(self, task: Task) -> None:
        """Ask once, about the task's reference as a completion.

        Raises:
            UserError: the key is not set, or no header may hold it, or no score came back.
        """
        name, key = self.settings.api_key_variable, self._key()
        if name and not key:
            raise UserError(f"rewards.judge.api_key_variable: the environment has no key in {name}")
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"rewards.judge.api_key_variable: the key in {name} holds a character that no "
                "header may hold, such as a line break: set the variable to the key alone"
            )
        solution = Solution(task.reference, (), task.reference, None)
        (found,) = self.score([(task, solution)])
        if found.failure:
            raise UserError(f"rewards.{found.failure}")

    def score(self, pairs: Sequence[tuple[Task, Solution]]) -> list[OwnReward]:
        """What the judge says of a batch, in its order; equal completions are asked about once."""
        return asyncio.run(self._score(pairs))

    async def _score(self, pairs: Sequence[tuple[Task, Solution]]) -> list[OwnReward]:
        distinct = {(task, solution.text): (task, solution) for task, solution in pairs}
        batch = _Batch(self.settings.concurrency)
        async with httpx.AsyncClient(
            headers=self._headers(), timeout=None, limits=httpx.Limits(max_connections=None)
        ) as client:
            found = await asyncio.gather(
                *(self._one(client, batch, *pair) for pair in distinct.values())
            )
        rewards = dict(zip(distinct, found, strict=True))
        return [rewards[task, solution.text] for task, solution in pairs]

    def _headers(self) -> dict[str, str]:
        content = {"Content-Type": "application/json"}
        return content | ({"Authorization": f"Bearer {self._key()}"} if self._key() else {})

    def _key(self) -> str:
        return os.environ.get(self.settings.api_key_variable, "").strip()

    def _hidden(self, text: str) -> str:
        """A text without the key, however JSON, HTML, an address or Python spells it."""
        key = self._key()
        if not key:
            return text
        spelled = "".join(f"(?:{'|'.join(map(re.escape, _spellings(sign)))})" for sign in key)
        return re.sub(spelled, HIDDEN, text, flags=re.IGNORECASE)

    async def _one(
        self, client: httpx.AsyncClient, batch: "_Batch", task: Task, solution: Solution
    ) -> OwnReward:
        prompt = self.settings.fill({
            "question": task.question, "reference": task.reference,
            "answer": solution.answer or "", "completion": solution.text,
        })  # fmt: skip
        async with batch.places:
            if batch.num_failed_in_row >= GIVE_UP_AFTER * self.settings.concurrency:
                why = f"not asked, as {batch.num_failed_in_row} in a row had failed"
                return OwnReward(None, failure=f"judge: {why}")
            try:
                score = await self._ask(client, prompt)
            except JudgeError as error:
                batch.num_failed_in_row += 1
                return OwnReward(None, failure=f"judge: {error}")
            batch.num_failed_in_row = 0
        return OwnReward(self.settings.weight * score)

    async def _ask(self, client: httpx.AsyncClient, prompt: str) -> float:
        """The score of one completion, in [0, 1].

        Raises:
            JudgeError: no try gave one; the last one's reason.
        """
        num_unread = 0
        for num_tries in range(1, self.settings.retries + 2):
            await self._pace.turn()
            try:
                async with asyncio.timeout(self.settings.timeout_seconds):
                    status, headers, body = await self._post(client, prompt)
                return self._read(status, headers, body)
            except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, JudgeError) as error:
                failure = self._as_failure(error)
            num_unread += isinstance(failure, UnreadableError)
            if not failure.passing or num_unread > 1 or num_tries > self.settings.retries:
                break
            self._pace.hold(failure.wait)
            wait = min(FIRST_WAIT * 2 ** (num_tries - 1), LONGEST_WAIT)
            await asyncio.sleep(wait * random.uniform(0.5, 1))
        tries = f" after {num_tries} tries" if num_tries > 1 else ""
        raise JudgeError(f"{failure}{tries}", passing=False)

    def _as_failure(self, error: Exception) -> JudgeError:
        if isinstance(error, JudgeError):
            return error
        if isinstance(error, TimeoutError):
            seconds = self.settings.timeout_seconds
            return JudgeError(f"no reply within {seconds:g} s", passing=True)
        passing = not isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL)
        said = shortened(self._hidden(str(error))) or type(error).__name__
        return JudgeError(f"{self.settings.base_url}: {said}", passing)

    async def _post(
        self, client: httpx.AsyncClient, prompt: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply.

        Raises:
            JudgeError: the body is longer than any judgement.
            httpx.HTTPError: there was no whole reply.
        """
        asked = {
            "model": self.settings.model, "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }  # fmt: skip
        url = f"{self.settings.base_url}{ENDPOINT}"
        async with client.stream("POST", url, content=json.dumps(asked).encode()) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise JudgeError(f"a reply of more than {MAX_REPLY_BYTES} bytes", passing=True)
            return response.status_code, response.headers, bytes(body)

    def _read(self, status: int, headers: Mapping[str, str], body: bytes) -> float:
        if status != 200:
            said = shortened(self._hidden(body.decode(errors="replace")))
            passing = status in RETRIED or status >= 500
            raise JudgeError(f"status {status}: {said}", passing, _retry_after(headers))
        return read_score(body, self.settings.best_score, self._hidden)


class Pace:
    """Spaces the starts of requests evenly, and holds all of them back when told to.

    Args:
        per_minute: the most requests in a minute; 0 for no limit.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next start that is free."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._interval
        await asyncio.sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Start nothing more for so many seconds."""
        self._next = max(self._next, time.monotonic() + seconds)


class _Batch:
    """The requests of one batch."""

    def __init__(self, concurrency: int) -> None:
        self.places = asyncio.Semaphore(concurrency)
        self.num_failed_in_row = 0


def _spellings(sign: str) -> tuple[str, ...]:
    code = ord(sign)
    return (
        sign, f"\\{sign}", f"\\u{code:04x}", f"\\x{code:02x}", f"%{code:02x}",
        html.escape(sign), f"&#{code};", f"&#x{code:x};",
    )  # fmt: skip


def shortened(text: str) -> str:
    """A text in one line of bounded length."""
    return textwrap.shorten(text, MAX_REASON, placeholder=" ...")


def read_score(body: bytes, best: float, hidden: Callable[[str], str] = str) -> float:
    """The score in a reply of the API, as a share of the best one.

    Strict: the last line of the text, its thinking aside, is `Score: N`, no other line is, and N
    lies in the range.

    Args:
        hidden: takes secrets out of what an error quotes.

    Raises:
        JudgeError: there is no such score.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text, ended = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise JudgeError(f"not a chat completion: {reason(error)}", passing=True) from None
    if ended == "length":
        raise JudgeError("the judgement is cut off: raise max_tokens", passing=False)
    if ended in CUT_OFF:
        raise JudgeError(f"the judgement is cut off: {ended}", passing=True)
    if not isinstance(text, str):
        raise UnreadableError("the judgement has no text")
    judgement = after_thinking(text).strip()
    if OPENED.match(judgement):
        raise UnreadableError("the judgement ends within its thinking")
    lines = [line.strip() for line in judgement.splitlines()]
    scores = [found for line in lines if (found := _SCORE.fullmatch(line))]
    if len(scores) != 1 or scores[0][0] != lines[-1]:
        said = hidden(text)[-80:]
        raise UnreadableError(f"it does not end with one line 'Score: N': {said!r}")
    score = float(scores[0][1])
    if score > best:
        raise UnreadableError(f"its score {score:g} is above {best:g}")
    return score / best


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks for, bounded; 0 where it asks for none, or names a date."""
    try:
        seconds = float(headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else 0.0
