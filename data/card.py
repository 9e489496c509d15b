"""The dataset card: what a corpus holds, how it came about, and what it is not good for.

Hugging Face's README.md with YAML front matter, so that `datasets.load_dataset(FOLDER)` reads the
shards. Every number is counted from the records themselves.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from data.records import Record

UNKNOWN = "unknown: check them"  # the terms of what no card names a licence of
SOURCE_LICENCES = {"reasoning_gym": "apache-2.0"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def card(
    records: Iterable[Record],
    *,
    title: str = "Sparring corpus",
    licence: str = "",
    models: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    request: str = "",
    data_files: str = "round_*.parquet",
    batches: str = "round",
    loads_accepted: bool = False,
) -> str:
    """Return the dataset card of these records as Markdown.

    Args:
        title: the card's heading.
        licence: the identifier that the hub knows the records' licence by; by default the one that
            all their models and sources share, "other" where these differ, "unknown" where one is.
        models: licences by the names of the models that wrote solutions or critiques.
        sources: licences by the names of the generators of problems.
        request: the file beside the card that says what was asked for.
        data_files: where the shards lie, as seen from the card.
        batches: what a shard holds, in a word: a run's round, or a generation's batch.
        loads_accepted: whether the shards hold the accepted records alone.
    """
    listed = list(records)
    models, sources = _licences(listed, models or {}, sources or {})
    licence = licence or _common({*models.values(), *sources.values()})
    accepted = [record for record in listed if record.accepted]
    sections = [
        _front_matter(len(accepted if loads_accepted else listed), title, licence, data_files),
        f"# {title}",
        "Problems with solutions sampled from a language model, each judged by a rule-based "
        "verifier and, where a critic took part, with its critiques. Load the shards with "
        f'`datasets.load_dataset("parquet", data_files="{data_files}")`.',
        "## Counts\n\n" + _counts(listed, accepted, batches),
        "## Acceptance\n\n" + _acceptance(listed, accepted),
        "## Diversity\n\n" + _diversity(accepted),
        "## Provenance\n\n" + _provenance(listed, request),
        "## Licence\n\n" + _licence(licence, models, sources),
        "## Limits\n\n" + _limits(listed),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(num_records: int, title: str, licence: str, data_files: str) -> str:
    size = next((name for limit, name in SIZES if num_records < limit), "n>1M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(title)}",
        f"license: {json.dumps(licence)}",
        "task_categories:",
        "- text-generation",
        "tags:",
        "- synthetic",
        "- reasoning",
        "size_categories:",
        f"- {json.dumps(size)}",
        "configs:",
        "- config_name: default",
        f"  data_files: {json.dumps(data_files)}",
        "---",
    ]
    return "\n".join(lines)


def _counts(listed: Sequence[Record], accepted: Sequence[Record], batches: str) -> str:
    rows = [("all", len(listed), len(accepted))]
    for kind, names in (
        ("split", [record.split for record in listed]),
        ("family", [record.family for record in listed]),
        (batches, [str(record.round) for record in listed]),
    ):
        good = Counter(name for name, record in zip(names, listed, strict=True) if record.accepted)
        rows += [(f"{kind} {name}", num, good[name]) for name, num in _ordered(Counter(names))]
    return _table(("records", "number", "accepted"), rows)


def _acceptance(listed: Sequence[Record], accepted: Sequence[Record]) -> str:
    num_critiqued = sum(bool(record.critiques) for record in listed)
    facts = [
        f"- accepted: {_share(len(accepted), len(listed))}",
        f"- mean pass rate of their groups, accepted records: {_mean_pass_rate(accepted)}, "
        f"all records: {_mean_pass_rate(listed)}",
        f"- with at least one critique: {_share(num_critiqued, len(listed))}",
    ]
    reasons = Counter(record.reject_reason for record in listed if not record.accepted)
    outcomes = Counter(record.verdict_outcome for record in listed)
    return "\n\n".join(
        [
            "\n".join(facts),
            _table(("reason of rejection", "number"), reasons.most_common()),
            _table(("verdict", "number"), outcomes.most_common()),
        ]
    )


def _diversity(accepted: Sequence[Record]) -> str:
    solutions = [record.solution for record in accepted]
    words = [solution.split() for solution in solutions]
    pairs = [pair for text in words for pair in itertools.pairwise(text)]
    num_words = sum(map(len, words))
    mean_characters = sum(map(len, solutions)) / len(solutions) if solutions else 0.0
    return "\n".join(
        [
            "Of the accepted records:",
            "",
            f"- distinct problems: {_share(len({r.task_id for r in accepted}), len(accepted))}",
            f"- distinct solutions: {_share(len({r.signature for r in accepted}), len(accepted))}",
            f"- distinct words: {_share(len({w for text in words for w in text}), num_words)}",
            f"- distinct word pairs: {_share(len(set(pairs)), len(pairs))}",
            f"- mean length: {mean_characters:.1f} characters",
        ]
    )


def _provenance(listed: Sequence[Record], request: str) -> str:
    facts: dict[str, set[str]] = {
        "generators": {f"{r.generator_name} {r.generator_version}" for r in listed},
        "generator parameters": {r.generator_difficulty for r in listed} - {"", "{}"},
        "verifiers": {f"{r.verdict_verifier} {r.verdict_version}" for r in listed},
        "labels from": {str(r.label_source) for r in listed},
        "models": {f"{r.model} with {r.adapter}" if r.adapter else r.model for r in listed} - {""},
        "learner weights": {r.learner_hash for r in listed},
        "critic weights": {note.critic_hash for r in listed for note in r.critiques},
        "sampling": {_sampling(r) for r in listed},
        "schema versions": {str(r.schema_version) for r in listed},
    }
    lines = [f"- what was asked for, and the libraries' versions: `{request}`"] if request else []
    for name, values in facts.items():
        shown = ", ".join(f"`{value}`" for value in sorted(values)[:8]) or "none"
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        lines.append(f"- {name}: {shown}{more}")
    return "\n".join(lines)


def _sampling(record: Record) -> str:
    limit = f", at most {record.max_new_tokens} tokens" if record.max_new_tokens else ""
    return f"temperature {record.temperature:g}, top-p {record.top_p:g}{limit}"


def _licences(
    listed: Sequence[Record], models: Mapping[str, str], sources: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Licences of every model and source of these records, and of the models that criticised."""
    named = {record.model or "a model without a name" for record in listed}
    origins = {record.generator_name.split("/")[0] for record in listed}
    known = SOURCE_LICENCES | dict(sources)
    return (
        {name: models.get(name, UNKNOWN) for name in sorted(named | models.keys())},
        {name: known.get(name, UNKNOWN) for name in sorted(origins)},
    )


def _common(licences: set[str]) -> str:
    if not licences or UNKNOWN in licences:
        return "unknown"
    return licences.pop() if len(licences) == 1 else "other"


def _licence(licence: str, models: Mapping[str, str], sources: Mapping[str, str]) -> str:
    said = {
        "unknown": "Nobody has said under which licence these records may be used. It depends on:",
        "other": "These records come from works under several licences:",
    }.get(licence, f"The records are released under `{licence}`. They come from:")
    lines = [f"- problems of `{name}`: {terms}" for name, terms in sources.items()]
    lines += [f"- solutions or critiques by `{name}`: {terms}" for name, terms in models.items()]
    return "\n".join([said, "", *lines])


def _limits(listed: Sequence[Record]) -> str:
    num_unlabelled = sum(record.label_source != "rule" for record in listed)
    num_overlapping = sum(bool(record.contamination) for record in listed)
    num_masked = sum(record.verdict_outcome in ("timeout", "error") for record in listed)
    return "\n".join(
        [
            "- A verdict judges the final answer; a solution may reach it by unsound steps.",
            "- Rule verifiers err: open ones were measured at about 99% precision and 86% recall "
            "(arXiv:2505.22203). On these records nobody has measured it.",
            f"- Labels not from a rule: {_share(num_unlabelled, len(listed))}.",
            f"- Verifier timeouts and errors, which label nothing: "
            f"{_share(num_masked, len(listed))}.",
            f"- Overlapping with an evaluation set: {_share(num_overlapping, len(listed))}; "
            "paraphrases are not detected.",
            "- Filtered by one model's pass rate: too easy and too hard problems are rare here, "
            "so shares of problem types are not those of the generators.",
        ]
    )


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))


def _mean_pass_rate(records: Sequence[Record]) -> str:
    rates = [record.pass_rate for record in records if record.pass_rate is not None]
    return f"{sum(rates) / len(rates):.3f}" if rates else "not measured"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else f"No {header[0]}."
