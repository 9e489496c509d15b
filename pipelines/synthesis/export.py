"""`sparring-data export`: records as JSONL rows that trainers read.

sft      solutions to imitate: accepted records
dpo      preference pairs: an accepted solution against a wrong one of the same problem
critic   solutions to judge, with the verifier's verdict, the first flaw and a critique that agrees
         with the verdict and of which no claim was refuted
prompts  every problem played, with its reference, entry and pass rate, for RL

Chat models get messages, the compact dialect bare text. Leaves out any mixing of sources.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from critic.format import critique_dialect
from critic.meta import known_first_bad
from data.atomic import write_text_atomic
from data.dataset_folder import Reader
from data.errors import UserError, unknown_name
from data.rebuild import task_of
from data.records import CritiqueNote, Record
from pipelines.synthesis.rebuild import critique_verdict, dialect_of, read_solution
from rewards.dialect import dialect

Row = dict[str, object]


def export(reader: Reader, name: str, out: Path, overwrites: bool = False) -> int:
    """Write the records in a format as JSONL, atomically; returns the number of rows.

    Raises:
        UserError: the format is unknown, nothing is left to write, or `out` is a directory, or
            a file that may not be overwritten.
    """
    if name not in FORMATS:
        raise UserError(unknown_name("format", name, FORMATS))
    if out.is_dir():
        raise UserError(f"--out {out} is a directory: name a file, such as {out / name}.jsonl")
    if out.exists() and not overwrites:
        raise UserError(f"--out {out} exists: give another file, or add --force to overwrite it")
    reader.require_dialect()
    rows = [json.dumps(row, ensure_ascii=False) for row in FORMATS[name](reader)]
    if not rows:
        raise UserError(f"{reader.path} has nothing for format {name}: nothing was written")
    write_text_atomic(out, "\n".join(rows) + "\n")
    return len(rows)


def sft_rows(reader: Reader) -> Iterator[Row]:
    """Accepted solutions; conversations for chat models, else prompt and completion."""
    for record in reader.records(accepted=True):
        prompt, completion = _problem(reader, record), _answer(reader, record.solution)
        if isinstance(prompt, list) and isinstance(completion, list):
            yield {"messages": [*prompt, *completion], "id": record.id}
        else:
            yield {"prompt": prompt, "completion": completion, "id": record.id}


def dpo_rows(reader: Reader) -> Iterator[Row]:
    """Pairs of one problem: its accepted solutions against its distinct, well-formed wrong ones.

    No solution stands on both sides, whatever two verdicts said of it.
    """
    wrong: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in reader.records(accepted=False):
        if record.verdict_outcome == "incorrect":
            wrong[record.task_id].setdefault(record.signature, record)
    right: dict[str, list[Record]] = defaultdict(list)
    for record in reader.records(accepted=True):
        right[record.task_id].append(record)
    for task_id, good in right.items():
        for one in good:
            wrong[task_id].pop(one.signature, None)
        for chosen, rejected in zip(good, wrong[task_id].values(), strict=False):
            yield {
                "prompt": _problem(reader, chosen), "chosen": _answer(reader, chosen.solution),
                "rejected": _answer(reader, rejected.solution),
                "chosen_id": chosen.id, "rejected_id": rejected.id,
            }  # fmt: skip


def critic_rows(reader: Reader) -> Iterator[Row]:
    """Judged solutions of which there is a critique that agrees, as the completion to imitate."""
    return (row for row in _judged_rows(reader) if row["completion"] is not None)


def critic_prompt_rows(reader: Reader) -> Iterator[Row]:
    """All judged solutions with what is true of them, to reward a critic of them."""
    return (
        {name: value for name, value in row.items() if name != "completion"}
        for row in _judged_rows(reader)
    )


def _judged_rows(reader: Reader) -> Iterator[Row]:
    """Distinct well-formed solutions with a verdict; the completion is a critique that agrees."""
    parser, judge = dialect_of(reader), critique_dialect(reader.dialect)
    seen = set[str]()
    for record in reader.records():
        solution = read_solution(record, parser)
        judged = record.verdict_outcome in ("correct", "incorrect") and solution.well_formed
        if not judged or record.signature in seen:
            continue
        seen.add(record.signature)
        task, sound = task_of(record), record.verdict_outcome == "correct"
        wanted = "sound" if sound else "flawed"
        agreeing = [
            note for note in record.critiques
            if not _is_refuted(note) and critique_verdict(note, solution, reader.dialect) == wanted
        ]  # fmt: skip
        text = judge.render_prompt(parser.render_problem(task), record.solution)
        yield {
            "prompt": _said(reader, "user", text),
            "completion": _answer(reader, agreeing[0].content) if agreeing else None,
            "sound": sound,
            "first_flaw": None if sound else known_first_bad(task, solution, parser),
            "problem": record.prompt, "solution": record.solution, "id": record.id,
        }  # fmt: skip


def prompt_rows(reader: Reader) -> Iterator[Row]:
    """Each problem once, those that nobody solved too: they may be solved later."""
    seen = set[str]()
    for record in reader.records():
        if record.task_id in seen:
            continue
        seen.add(record.task_id)
        yield {
            "prompt": _problem(reader, record), "question": record.prompt,
            "answer": record.reference,
            "verifier": record.verdict_verifier, "family": record.family, "task_id": record.task_id,
            "split": record.split, "pass_rate": record.pass_rate, "entry": json.loads(record.entry),
        }  # fmt: skip


FORMATS: dict[str, Callable[[Reader], Iterator[Row]]] = {
    "sft": sft_rows, "dpo": dpo_rows, "prompts": prompt_rows,
    "critic": critic_rows, "critic_prompts": critic_prompt_rows,
}  # fmt: skip


def _is_refuted(note: CritiqueNote) -> bool:
    """Whether code found that a claim of the critique does not hold."""
    return any(claim.endswith(": refuted") for claim in note.meta_check.split(", "))


def _problem(reader: Reader, record: Record) -> object:
    asked = _said(reader, "user", dialect_of(reader).render_problem(task_of(record)))
    if isinstance(asked, list) and reader.system_prompt:
        return [{"role": "system", "content": reader.system_prompt}, *asked]
    return asked


def _answer(reader: Reader, text: str) -> object:
    return _said(reader, "assistant", text)


def _said(reader: Reader, who: str, text: str) -> object:
    """Text as the dialect's models take it: one message, or bare."""
    conversational = dialect(reader.dialect).conversational
    return [{"role": who, "content": text}] if conversational else text
