"""`sparring-data inspect` and `stats`: records as a person reads them, and counts.

Needs no model and no torch. Leaves out the dataset card (`data/card.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from data.dataset_folder import SURPLUS, Reader
from data.errors import UserError
from data.records import Record
from data.sealed import record_row
from pipelines.synthesis.rebuild import critique_verdict, dialect_of, read_solution


def shown_records(reader: Reader, num: int, rejected: bool) -> list[dict[str, object]]:
    """The first `num` records of one kind, as rows.

    Raises:
        UserError: `num` is below 1.
    """
    if num < 1:
        raise UserError(f"--num must be at least 1, got {num}")
    return [record_row(record) for record in islice(reader.records(not rejected), num)]


def record_text(row: Mapping[str, object]) -> str:
    """One record as a person reads it."""
    fate = "accepted" if row["accepted"] else f"rejected ({row['reject_reason']})"
    facts = [f"{row['family']}", f"split {row['split']}", f"batch {row['round']}"]
    if row["pass_rate"] is not None:
        facts.append(f"pass rate {row['pass_rate']:.2f}")
    parts = [
        f"--- {row['id']}  {fate}  {'  '.join(facts)}",
        *_block("problem", str(row["prompt"])), *_block("solution", str(row["solution"])),
        f"answer    {row['answer']}   reference {row['reference']}",
        f"verdict   {row['verdict_outcome']} by {row['verdict_verifier']} "
        f"({row['verdict_version']})",
    ]  # fmt: skip
    if row["model"]:
        adapter = f" with {row['adapter']}" if row["adapter"] else ""
        parts.append(f"sampled   by {row['model']}{adapter}, seed {row['sampling_seed']}")
    critiques = row["critiques"]
    assert isinstance(critiques, list), "record_row() made it"
    for note in critiques:
        parts += _block("critique", str(note["content"]))
        parts.append(f"  checked {note['meta_check'] or 'it claims no flaw'}")
    return "\n".join(parts)


def statistics(reader: Reader) -> dict[str, object]:
    """Everything that can be counted over the records, JSON-able."""
    records = list(reader.records())
    accepted = [record for record in records if record.accepted]
    rejected = [record for record in records if not record.accepted]
    reasons = Counter(record.reject_reason for record in rejected)
    rates = [record.pass_rate for record in records if record.pass_rate is not None]
    return {
        "samples": len(records), "accepted": len(accepted), "rejected": len(rejected),
        "accept_rate": _ratio(len(accepted), len(records)),
        "surplus": reasons[SURPLUS], "reasons": dict(reasons.most_common()),
        "verdicts": dict(Counter(r.verdict_outcome for r in records).most_common()),
        "mean_pass_rate": _ratio(sum(rates), len(rates)),
        "problems": len({record.task_id for record in records}),
        "distinct_ratio": _ratio(len({r.signature for r in records}), len(records)),
        "accepted_problems": len({record.task_id for record in accepted}),
        "solution_characters": _lengths(accepted), "families": _by_family(records),
        "splits": dict(Counter(str(r.split) for r in records)),
        "label_sources": dict(Counter(str(r.label_source) for r in records)),
        "learner_weights": sorted({record.learner_hash for record in records}),
        "critic": critic_agreement(records, reader) if reader.dialect else None,
    }  # fmt: skip


def critic_agreement(records: Iterable[Record], reader: Reader) -> dict[str, object]:
    """How often the critiques' verdicts are the verifier's, over the solutions it could judge."""
    counts: Counter[tuple[str, bool]] = Counter()
    parser, name = dialect_of(reader), reader.dialect
    for record in records:
        if record.verdict_outcome not in ("correct", "incorrect"):
            continue
        solution = read_solution(record, parser)
        for note in record.critiques:
            counts[critique_verdict(note, solution, name), record.verdict_outcome == "correct"] += 1
    judged = {key: num for key, num in counts.items() if key[0] != "unparsed"}
    agreed = counts["sound", True] + counts["flawed", False]
    return {
        "critiques": counts.total(), "unparsed": counts.total() - sum(judged.values()),
        "agreement": _ratio(agreed, sum(judged.values())),
        "sound_of_correct": _ratio(
            counts["sound", True], counts["sound", True] + counts["flawed", True]
        ),
        "flawed_of_incorrect": _ratio(
            counts["flawed", False], counts["sound", False] + counts["flawed", False]
        ),
    }  # fmt: skip


def statistics_text(found: Mapping[str, object]) -> str:
    """The statistics as a person reads them, one per line."""
    lines = []
    for name, value in found.items():
        if not isinstance(value, dict):
            lines.append(f"{name:<20} {_shown(value)}")
            continue
        lines.append(name)
        lines += [
            f"  {key:<34} {_shown(item)}" if not isinstance(item, dict)
            else f"  {key:<34} {', '.join(f'{k} {_shown(v)}' for k, v in item.items())}"
            for key, item in value.items()
        ]  # fmt: skip
    return "\n".join(lines)


def _by_family(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    families: dict[str, dict[str, int]] = {}
    for record in records:
        counts = families.setdefault(record.family, {"samples": 0, "correct": 0, "accepted": 0})
        counts["samples"] += 1
        counts["correct"] += record.verdict_outcome == "correct"
        counts["accepted"] += record.accepted
    return families


def _lengths(records: Iterable[Record]) -> dict[str, float]:
    lengths = [len(record.solution) for record in records]
    if not lengths:
        return {}
    quantiles = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    named = dict(zip(("p5", "median", "p95"), quantiles, strict=True))
    return {"mean": float(np.mean(lengths)), **named}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(str(item)[:16] for item in value)
    return "-" if value is None else str(value)


def _block(name: str, text: str) -> list[str]:
    first, *rest = text.splitlines() if text.strip() else ["(nothing but white space)"]
    return [f"{name:<9} {first}", *(f"{'':<9} {line}" for line in rest)]
