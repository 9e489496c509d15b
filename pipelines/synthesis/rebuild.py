"""What a record says, read again from the record alone: its solution, its critiques.

Leaves out its task (`data/rebuild.py`) and whether that still holds (`synthesis/verify.py`).
"""

from critic.critique import ParseFailure
from critic.format import critique_dialect
from data.dataset_folder import Reader
from data.records import CritiqueNote, Record
from rewards.dialect import dialect
from rewards.solution import Dialect, Solution

TRUNCATED = "malformed: truncated"


def dialect_of(reader: Reader) -> Dialect:
    """The dialect of a reader's solutions, worded as when they were sampled.

    Raises:
        UserError: nothing says which one.
    """
    return dialect(reader.require_dialect(), reader.answer_in, reader.prompt_template)


def read_solution(record: Record, parser: Dialect) -> Solution:
    """Parse a record's solution as it was parsed when it was sampled."""
    truncated = record.reject_reason == TRUNCATED
    return parser.parse_solution(record.solution, truncated=truncated)


def critique_verdict(note: CritiqueNote, solution: Solution, name: str) -> str:
    """ "sound", "flawed" or "unparsed"."""
    if note.meta_check.startswith("unparsed"):
        return "unparsed"
    critique = critique_dialect(name).parse(note.content, solution, truncated=False)
    return "unparsed" if isinstance(critique, ParseFailure) else critique.verdict
