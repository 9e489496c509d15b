"""A user's gold tasks, sampled under fixed conditions from the model that trains, and checked.

The model's own training is left as it is: its mode, its generation settings and the random numbers
that it draws next. Leaves out what the samples mean (`critic/monitor/probe.py`) and when they are
drawn (`guard/callback.py`).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic.monitor import signals
from critic.monitor.probe import ProbeSample, probe_readings
from critic.monitor.readings import NUM_START, Reading, pooled, settled
from data.errors import UserError, reason
from data.records import signature
from pipelines.rollouts.engine import Completion, Sampling, completion_seed
from pipelines.rollouts.transformers_engine import TransformersEngine

Row = Mapping[str, object]
Check = Callable[[str, Row], bool | None]
Answer = Callable[[str], str | None]
WantsMore = Callable[[Mapping[str, Reading | None]], bool]


def whole_text(completion: str) -> str | None:
    """The answer of a completion that is nothing but its answer."""
    return " ".join(completion.split()) or None


@dataclass(frozen=True)
class Found:
    """What one probe found.

    Attributes:
        readings: the signals, by name.
        samples: as a person reads them, the wrong ones first.
        num_tokens: sampled.
        faults: how often the user's functions failed on a sample, by their message.
        num_reads: how often the gold tasks were sampled for it.
        first: what they showed before they were sampled again; empty where they were not.
    """

    readings: dict[str, Reading | None]
    samples: list[dict[str, object]]
    num_tokens: int
    faults: Counter[str]
    num_reads: int = 1
    first: Mapping[str, Reading | None] = field(default_factory=dict)


@dataclass(frozen=True)
class GoldProbe:
    """The gold tasks and how they are sampled, the same at every check.

    Args:
        rows: the tasks. Each has a "prompt", a text or a conversation, as TRL's data sets have,
            perhaps a right "completion", and whatever else the check needs.
        check: says of a completion and its row whether it is right; None where it cannot say.
        answer: the answer that a completion gives, in one form; None where it gives none.
        num_samples: completions per task.
        max_new_tokens: of a completion.
        batch_size: completions that are sampled at a time.
        seed: of the samples.

    Raises:
        UserError: there are fewer than two tasks, or one has no prompt.
    """

    rows: Sequence[Row]
    check: Check
    answer: Answer = whole_text
    num_samples: int = 4
    max_new_tokens: int = 256
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            raise UserError(f"the monitor needs gold tasks, some 64 of them: got {len(self.rows)}")
        if any(not row.get("prompt") for row in self.rows):
            raise UserError('each gold task needs a "prompt": a text, or a list of turns')
        for name in ("num_samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def scores_gold(self) -> bool:
        """Whether every task has a right completion, whose likelihood can be read."""
        return all(row.get("completion") for row in self.rows)

    def read(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        check_number: int,
        wants_more: WantsMore | None = None,
        num_again: int = 0,
    ) -> Found:
        """Sample, check and score; what may be a fall is sampled again, and judged by that alone.

        Args:
            model: that trains, unwrapped.
            tokenizer: its own.
            check_number: names the check in the seeds; -1 is before training.
            wants_more: whether readings should be taken again before they are judged; None never.
            num_again: how often.
        """
        first = self._read(model, tokenizer, check_number)
        if wants_more is None or not num_again or not wants_more(first.readings):
            return first
        numbers = range(1, 1 + num_again)
        fresh = [self._read(model, tokenizer, check_number, number) for number in numbers]
        readings = settled(first.readings, [one.readings for one in fresh])
        found = _together(readings, [*fresh, first])
        sampled = {name: first.readings[name] for name in fresh[0].readings}
        return replace(found, first=sampled)

    def _read(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        number: int,
        again: int = 0,
    ) -> Found:
        """One sampling, with seeds of its own; the surprise at given texts is scored once."""
        prompts = [prompt_ids(row["prompt"], tokenizer) for row in self.rows]
        engine = self._engine(model, tokenizer, max(map(len, prompts)))
        repeated = [ids for ids in prompts for _ in range(self.num_samples)]
        places = range(len(repeated))
        named = f"{number}, {again}" if again else number
        seeds = [completion_seed(self.seed, "gold", named, place) for place in places]
        faults = Counter[str]()
        if is_finite(model, prompts[0]):
            with torch.random.fork_rng():  # sampling seeds every device
                drawn = engine.generate(repeated, Sampling(self.max_new_tokens), seeds)
        else:  # nothing can be sampled from it: every answer is wrong
            drawn = [Completion([], [], truncated=True)] * len(repeated)
            faults["the model's logits are not finite"] += len(repeated)
        groups, samples = list[list[ProbeSample]](), list[dict[str, object]]()
        for place, done in enumerate(drawn):
            row = self.rows[place // self.num_samples]
            text = tokenizer.decode(done.token_ids, skip_special_tokens=True)
            if done.token_ids:
                sample = self._judged(text, row, done.logprobs, faults)
            else:
                sample = ProbeSample(None, None, False, None, ())
            if place % self.num_samples == 0:
                groups.append([])
            groups[-1].append(sample)
            samples.append({"prompt": row["prompt"], "completion": text, "right": sample.passed})
        readings = probe_readings(groups)
        if not again:
            scored = self.scores_gold
            readings["gold_nll"] = self._nll(engine, prompts, tokenizer) if scored else None
        samples.sort(key=lambda one: bool(one["right"]))
        return Found(readings, samples, sum(len(done.token_ids) for done in drawn), faults)

    def read_start(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Found:
        """What a run is compared with from its first check on: the mean of several readings.

        But of the surprise at given texts: to read the same ones again makes nothing surer.
        """
        found = [self._read(model, tokenizer, -1 - number) for number in range(NUM_START)]
        surprise = {"gold_nll": found[0].readings["gold_nll"]}
        return _together(pooled([one.readings for one in found]) | surprise, found)

    def _engine(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int
    ) -> TransformersEngine:
        ends = end_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        length = longest + self.max_new_tokens
        return TransformersEngine(
            model, ends, ends[0] if pad is None else pad, length, self.batch_size
        )

    def _judged(
        self, text: str, row: Row, logprobs: Sequence[float], faults: Counter[str]
    ) -> ProbeSample:
        """A sample with the user's verdict; what the user's functions break on is not judged."""
        try:
            passed = self.check(text, row)
            if passed is not None and passed not in (0, 1):
                raise UserError(f"check returned {passed!r}, not True, False or None")
        except Exception as error:  # a user's function may raise anything
            faults[f"{type(error).__name__}: {reason(error)}"] += 1
            passed = None
        try:
            answer = self.answer(text)
        except Exception as error:
            faults[f"answer: {type(error).__name__}: {reason(error)}"] += 1
            answer = None
        return ProbeSample(
            answer=answer,
            signature=signature(str(row["prompt"]), text),
            passed=None if passed is None else bool(passed),
            well_formed=None,
            logprobs=logprobs,
        )

    def _nll(
        self,
        engine: TransformersEngine,
        prompts: Sequence[Sequence[int]],
        tokenizer: PreTrainedTokenizerBase,
    ) -> Reading | None:
        """The surprise at the right completions, in nats per token."""
        texts = [completion_text(row["completion"]) for row in self.rows]
        replies = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        whole = [[*ids, *reply] for ids, reply in zip(prompts, replies, strict=True)]
        scores = engine.score(whole)
        tails = [own[len(ids) - 1 :] for own, ids in zip(scores, prompts, strict=True)]
        return signals.nll_of_gold(tails)


def _together(readings: dict[str, Reading | None], found: Sequence[Found]) -> Found:
    """Several samplings of the same weights, whose readings are given, as one."""
    return Found(
        readings,
        found[0].samples,
        sum(one.num_tokens for one in found),
        sum((one.faults for one in found), Counter[str]()),
        len(found),
    )


def prompt_ids(prompt: object, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's token ids, as TRL's trainers read it.

    Raises:
        UserError: it is neither a text nor a conversation.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not isinstance(prompt, list) or not all(isinstance(turn, Mapping) for turn in prompt):
        raise UserError(f"a gold task's prompt is a text or a list of turns, got {prompt!r}")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def completion_text(completion: object) -> str:
    """The text of a right completion, which may be a conversation's one turn."""
    if isinstance(completion, list):
        return "".join(str(turn["content"]) for turn in completion)
    return str(completion)


@torch.no_grad()
def is_finite(model: PreTrainedModel, prompt: Sequence[int]) -> bool:
    """Whether a model can be sampled from: one that diverged gives NaN for every token."""
    training = model.training
    model.eval()
    logits = model(input_ids=torch.tensor([list(prompt)], device=model.device)).logits
    model.train(training)
    return bool(torch.isfinite(logits).all())


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that end a completion: the tokenizer's and the checkpoint's.

    Raises:
        UserError: there is none.
    """
    own = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    ends = [one for one in dict.fromkeys(found) if one is not None]
    if not ends:
        raise UserError("neither tokenizer nor model has an end token: set tokenizer.eos_token")
    return ends


def reward_reading(rewards: Sequence[float], span: float) -> Reading | None:
    """The mean reward of some steps, as a share of what a right solution earns beyond a wrong one.

    Its error is of the steps' means, whose trend counts as noise; None for fewer than two steps.
    """
    shares = [[reward / span] for reward in rewards if math.isfinite(reward)]
    return signals.mean_of_fresh(shares)
