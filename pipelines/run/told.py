"""What is told of a run while it goes on and when it ends: status.json, and the report beside it.

The sentences are those of `pipelines/report/account.py`, made from the files that the run has
written, so that terminal, status.json and report cannot differ. A report is a by-product: nothing
that goes wrong in it ends a run, or takes the place of what did. Leaves out the last lines
(`run/last_lines.py`).
"""

import logging
import time
import traceback
from pathlib import Path

from pipelines.errors import UnprovenSyncError, UserError
from pipelines.report.account import Account
from pipelines.report.write import account_of, write_report
from pipelines.run.directory import RunDirectory
from pipelines.run.last_lines import mended_first

SHARE = 0.01  # of a run's seconds that its reports may take while it goes on
FIRST_COST = 0.3  # seconds that the first report is taken to cost

logger = logging.getLogger(__name__)


def tell_end(directory: RunDirectory, state: str, **facts: object) -> Account:
    """Write status.json with the account of the run in it; rank 0 alone.

    Args:
        directory: the run's.
        state: how it ended.
        facts: what else status.json shall hold; `next` is what the run says last.
    """
    directory.status(state, **facts)  # first: the account reads how the run ended
    said = account_of(directory.path)
    directory.status(state, **facts, account=said.row())
    return said


def tell_failure(
    directory: RunDirectory, error: BaseException, round_: int, last: str, go_on: str
) -> None:
    """Record an end that nobody chose, and write its report, without which it ends the same.

    Args:
        directory: the run's.
        error: what ended it; gets `go_on` as a note, unless a user has to mend it first.
        round_: the open one.
        last: the newest complete checkpoint, in words.
        go_on: what continues the run.
    """
    by_user = isinstance(error, UserError)
    told = mended_first(go_on) if by_user or isinstance(error, UnprovenSyncError) else go_on
    if not by_user:
        error.add_note(told)
    state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    facts: dict[str, object] = {
        "round": round_,
        "next": told,
        "error": f"{type(error).__name__}: {error}",
        "continue_with": f"--resume {directory.path}",
        "last_checkpoint": last,
        "traceback": "".join(traceback.format_exception(error)),
    }
    if not directory.record_failure(state, **facts):  # by whichever process it was that failed
        return
    try:
        said = account_of(directory.path)
        directory.record_failure(state, **facts, account=said.row())
        write_report(directory.path)
    except (Exception, KeyboardInterrupt) as fault:  # a second Ctrl-C is for the report
        logger.warning("no report of this end: %s: %s", type(fault).__name__, fault)


class LiveReport:
    """Writes the report while the run goes on, as often as its share of the time allows.

    Args:
        directory: the run's folder.
        share: of the seconds since the last report that writing one may take.
    """

    def __init__(self, directory: Path, share: float = SHARE) -> None:
        self.directory, self.share = directory, share
        self._cost, self._since = FIRST_COST, time.perf_counter()

    def after_round(self) -> bool:
        """Write it if it is due, as far as the last one's cost tells; returns whether it did."""
        begun = time.perf_counter()
        if begun - self._since < self._cost / self.share:
            return False
        try:
            write_report(self.directory)
        except Exception as error:  # the run is worth more than its page
            logger.warning("no report of this round: %s: %s", type(error).__name__, error)
        self._since = time.perf_counter()
        self._cost = self._since - begun
        return True
