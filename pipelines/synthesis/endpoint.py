"""Samples from servers with an OpenAI-compatible API, for `sparring-data generate http://...`.

    prompts ──► the server with the fewest requests in flight ──► text
                    └─ fails in a way that may pass ─► another one, later and later

Several addresses serve one model. A reply has no tokens here, and the server need not repeat it for
the same seed. Leaves out which checkpoint the model is: its name stands for its weights.
"""

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence

import httpx
from pydantic import ValidationError

from data.errors import UserError, reason
from data.records import SampledWith, canonical_json
from pipelines.rollouts.engine import completion_seed
from pipelines.rollouts.sample import Prompt, Sample
from rewards.judge import FIRST_WAIT, LONGEST_WAIT, MAX_REPLY_BYTES, RETRIED, shortened
from rewards.judge_settings import JudgeSettings

RETRIES = 5  # of one request, over all servers


class _Failed(RuntimeError):
    """A request without a reply; whether another try may help."""

    def __init__(self, what: str, passing: bool) -> None:
        super().__init__(what)
        self.passing = passing


def urls_of(source: str) -> list[str]:
    """The addresses in FROM, separated by commas; none where it is a path."""
    if not source.startswith(("http://", "https://")):
        return []
    return [url.strip().rstrip("/") for url in source.split(",") if url.strip()]


class EndpointSampler:
    """One role's samples from a list of servers.

    Args:
        name: "learner" or "critic"; part of the seeds.
        urls: addresses up to the API's version.
        model: the name by which all of them serve the model.
        key_variable: the environment variable that holds the API's key; "" sends none.
        seed: the generation's.
        max_tokens: the most tokens of a completion.
        temperature: of the samples, unless a call gives another.
        concurrency: the most requests at once, of each server.
        timeout_seconds: of one request.
        template: what the server's chat template gets for every conversation, as vLLM and SGLang
            take it; an empty one is not sent, since other servers refuse it.

    Raises:
        UserError: an address is none, there is no model, or the key is not set.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        model: str,
        key_variable: str,
        seed: int,
        max_tokens: int,
        temperature: float,
        concurrency: int = 16,
        timeout_seconds: float = 600.0,
        template: Mapping[str, object] | None = None,
    ) -> None:
        if not model:
            raise UserError("a server is asked for a model by name: add --model NAME")
        for url in urls:
            try:
                JudgeSettings(base_url=url, model=model, api_key_variable=key_variable)
            except ValidationError as error:
                problem = error.errors()[0]
                raise UserError(f"FROM {problem['loc'][0]}: {problem['msg']}") from None
        self._key = os.environ.get(key_variable, "").strip() if key_variable else ""
        if key_variable and not self._key:
            raise UserError(f"--key-variable: the environment has no key in {key_variable}")
        self.name, self.model, self.seed = name, model, seed
        self.max_tokens, self.temperature = max_tokens, temperature
        self.template = {"chat_template_kwargs": dict(template)} if template else {}
        self.weights_hash = f"model {model} behind an API"
        self._in_flight = dict.fromkeys(urls, 0)
        self._failures = dict.fromkeys(urls, 0)  # in a row
        self._concurrency, self._timeout = concurrency, timeout_seconds

    def prompt_length(self, prompt: Prompt) -> int:
        """0: only the server knows, and it refuses what is too long."""
        return 0

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        """Sample `num` completions per prompt.

        Raises:
            UserError: a server refused a request, or none answered one.
        """
        chosen = self.temperature if temperature is None else temperature
        each = [prompt for prompt in prompts for _ in range(num)]
        samples = asyncio.run(self._sample(each, purpose, chosen))
        return [samples[i : i + num] for i in range(0, len(samples), num)]

    async def _sample(
        self, prompts: Sequence[Prompt], purpose: str, temperature: float
    ) -> list[Sample]:
        places = asyncio.Semaphore(self._concurrency * len(self._in_flight))
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client:

            async def one(index: int, prompt: Prompt) -> Sample:
                is_text = isinstance(prompt, str)
                template = {} if is_text else self.template
                sent = {"messages": prompt, **template} if template else prompt
                how = SampledWith(
                    temperature=temperature, top_p=1.0, model=self.model,
                    seed=completion_seed(self.seed, self.name, purpose, index) % 2**31,
                    rendered=prompt if is_text else canonical_json(sent),
                    max_new_tokens=self.max_tokens,
                )  # fmt: skip
                asked = {
                    "model": how.model, "max_tokens": how.max_new_tokens, "seed": how.seed,
                    "temperature": how.temperature, "top_p": how.top_p,  # or the server's own
                    "prompt" if is_text else "messages": prompt, **template,
                }  # fmt: skip
                path = "/completions" if is_text else "/chat/completions"
                async with places:
                    text, truncated = await self._ask(client, path, asked)
                return Sample(text, [], [], truncated, how, self.weights_hash)

            tasks = [asyncio.ensure_future(one(i, prompt)) for i, prompt in enumerate(prompts)]
            try:
                return list(await asyncio.gather(*tasks))
            finally:  # one that fails ends the others
                for task in tasks:
                    task.cancel()

    async def _ask(
        self, client: httpx.AsyncClient, path: str, asked: Mapping[str, object]
    ) -> tuple[str, bool]:
        """The text of one reply, and whether the token limit ended it."""
        for num_tries in range(1, RETRIES + 2):
            url = min(self._in_flight, key=lambda one: (self._failures[one], self._in_flight[one]))
            self._in_flight[url] += 1
            try:
                async with asyncio.timeout(self._timeout):
                    reply = await client.post(f"{url}{path}", json=asked)
                found = _read(reply, path)
                self._failures[url] = 0
                return found
            except (TimeoutError, httpx.HTTPError, _Failed) as error:
                self._failures[url] += 1
                passing = error.passing if isinstance(error, _Failed) else True
                said = reason(error).replace(self._key, "[key]") if self._key else reason(error)
            finally:
                self._in_flight[url] -= 1
            if not passing:
                raise UserError(f"{url} refuses a request: {said}")
            wait = min(FIRST_WAIT * 2 ** (num_tries - 1), LONGEST_WAIT)
            await asyncio.sleep(wait * random.uniform(0.5, 1))
        raise UserError(f"no server answers, after {num_tries} tries; the last, {url}: {said}")


def _read(reply: httpx.Response, path: str) -> tuple[str, bool]:
    if reply.status_code != 200:
        passing = reply.status_code in RETRIED or reply.status_code >= 500
        raise _Failed(f"status {reply.status_code}: {shortened(reply.text)}", passing)
    if len(reply.content) > MAX_REPLY_BYTES:
        raise _Failed(f"a reply of more than {MAX_REPLY_BYTES} bytes", False)
    try:
        choice = json.loads(reply.content)["choices"][0]
        text = choice["text"] if path == "/completions" else choice["message"]["content"]
        return str(text or ""), choice.get("finish_reason") == "length"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Failed(f"not a completion: {reason(error)}", True) from None
