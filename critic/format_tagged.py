"""The JSON critique format of instruction-tuned models, for solutions of the tagged dialect.

    {"steps": [{"id", "ok"}], "flaws": [{"step", "quote", "type", "evidence": {"kind", "payload"}}],
     "verdict": "sound" | "flawed", "p_sound": 0..1}

The model may think before it answers: the last JSON object in the text counts. Leaves out whether a
claim is true (`meta`).
"""

import json
import random

from critic.critique import Critique, EvidenceKind, Flaw, ParseFailure, SoundOrFlawed, StepJudgement
from data.errors import UserError
from rewards.solution import Solution

MAX_CHARS = 20_000
MAX_FLAWS = 8
MAX_FIELD_CHARS = 2_000
_MAX_ATTEMPTS = 64  # bounds the scan of a text full of opening braces
_EVIDENCE_KINDS: dict[str, EvidenceKind] = {
    "recompute": "recompute",
    "counterexample": "counterexample",
    "rule": "rule",
}
_VERDICTS: dict[str, SoundOrFlawed] = {"sound": "sound", "flawed": "flawed"}

_INSTRUCTION = """\
You check a solution for flaws. Judge every numbered step, given what was stated before it.

Problem:
{problem}

Solution:
{solution}

Answer with one JSON object and nothing after it:
{{"steps": [{{"id": "1", "ok": true}}, {{"id": "2", "ok": false}}], \
"flaws": [{{"step": "2", "quote": "exact words of the step", "type": "arithmetic", \
"evidence": {{"kind": "recompute", "payload": "the right value"}}}}], \
"verdict": "sound" or "flawed", "p_sound": probability from 0 to 1 that the final answer is right}}
Evidence kinds: recompute, counterexample, rule. Leave "flaws" empty when you find none.
"""


class _Malformed(Exception):
    """Carries the name of a parse failure from a field's reader to `parse`."""


class TaggedCritique:
    """Prompts and parses critiques written as one JSON object."""

    name = "tagged"

    def render_prompt(self, problem: str, solution: str) -> str:
        """Ask for a critique: the critic sees the problem and the solution, nothing else."""
        return _INSTRUCTION.format(problem=problem, solution=solution)

    def parse(self, text: str, solution: Solution, *, truncated: bool) -> Critique | ParseFailure:
        """Read a critique of `solution`; any string gives a critique or a named failure."""
        if truncated:
            return ParseFailure("truncated")
        if len(text) > MAX_CHARS:
            return ParseFailure("too_long")
        try:
            return _read_critique(_last_object(text), {step.id for step in solution.steps})
        except _Malformed as failure:
            return ParseFailure(str(failure))

    def write_critique(
        self,
        solution: Solution,
        first_bad: str | None,
        right_step: str | None,
        sound: bool,
        rng: random.Random,
    ) -> str:
        """Refuse: demonstrations are procedural, and free text has no procedure to write one.

        Raises:
            UserError: always.
        """
        raise UserError(
            "the tagged dialect has no procedural critiques: cold-start the critic with the chain "
            "dialect, or start it from an instruction-tuned model"
        )


def _last_object(text: str) -> dict[str, object]:
    decoder = json.JSONDecoder()
    found: dict[str, object] | None = None
    position = text.find("{")
    attempts = 0
    while position >= 0:
        attempts += 1
        if attempts > _MAX_ATTEMPTS:
            raise _Malformed("too_many_braces")
        try:
            value, end = decoder.raw_decode(text, position)
        except RecursionError:
            raise _Malformed("too_deep") from None
        except ValueError:  # JSONDecodeError, or an integer of thousands of digits
            end = position + 1
        else:
            found = value
        position = text.find("{", end)
    if found is None:
        raise _Malformed("no_json")
    return found


def _read_critique(found: dict[str, object], step_ids: set[str]) -> Critique:
    steps = tuple(_read_step(item, step_ids) for item in _items(found, "steps"))
    if len({step.id for step in steps}) != len(steps):
        raise _Malformed("repeated_step")
    flaw_items = _items(found, "flaws")
    if len(flaw_items) > MAX_FLAWS:
        raise _Malformed("too_many_flaws")
    flaws = tuple(_read_flaw(item, step_ids) for item in flaw_items)
    if len({flaw.step for flaw in flaws}) != len(flaws):
        raise _Malformed("repeated_flaw")  # else one true claim could be repeated for precision
    verdict = _VERDICTS.get(_string(found, "verdict"))
    if verdict is None:
        raise _Malformed("bad_verdict")
    if {step.id for step in steps if step.ok} & {flaw.step for flaw in flaws}:
        raise _Malformed("flaw_on_ok_step")
    if flaws and verdict == "sound":
        raise _Malformed("sound_with_flaws")
    return Critique(steps, flaws, verdict, _probability(found))


def _read_step(item: dict[str, object], step_ids: set[str]) -> StepJudgement:
    step_id, ok = _step_id(item, "id", step_ids), item.get("ok")
    if not isinstance(ok, bool):
        raise _Malformed("bad_ok")
    return StepJudgement(step_id, ok)


def _read_flaw(item: dict[str, object], step_ids: set[str]) -> Flaw:
    evidence = item.get("evidence")
    if not isinstance(evidence, dict):
        raise _Malformed("bad_evidence")
    kind = _EVIDENCE_KINDS.get(_string(evidence, "kind"))
    if kind is None:
        raise _Malformed("bad_evidence_kind")
    payload = evidence.get("payload")
    if isinstance(payload, int | float) and not isinstance(payload, bool):
        payload = json.dumps(payload)  # a bare number is the natural payload of a recomputation
    return Flaw(
        step=_step_id(item, "step", step_ids),
        quote=_string(item, "quote"),
        type=_string(item, "type"),
        evidence_kind=kind,
        payload=_string({"payload": payload}, "payload"),
    )


def _items(found: dict[str, object], key: str) -> list[dict[str, object]]:
    items = found.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _Malformed(f"bad_{key}")
    return items


def _string(found: dict[str, object], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > MAX_FIELD_CHARS:
        raise _Malformed(f"bad_{key}")
    return value


def _step_id(item: dict[str, object], key: str, step_ids: set[str]) -> str:
    value = item.get(key)
    step_id = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(step_id, str) or step_id not in step_ids:
        raise _Malformed("unknown_step")
    return step_id


def _probability(found: dict[str, object]) -> float:
    value = found.get("p_sound")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Malformed("bad_p_sound")
    if not 0 <= value <= 1:  # NaN fails it too
        raise _Malformed("bad_p_sound")
    return float(value)
