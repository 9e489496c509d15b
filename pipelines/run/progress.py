"""What a program is doing, said whenever nothing else was for some seconds.

A person who waits sees that it lives, and at what. Lines go to stderr, beside the results, and from
the first process alone. Leaves out what is worth keeping (`run/round_log.py`). Imports no torch.
"""

import os
import sys
import threading
import time
from typing import Self, TextIO

from tqdm import tqdm

SILENCE = 4.5  # seconds without a line, after which one is said: a person waits for five
PATIENCE = 60.0  # seconds in one stage, after which a line every half minute is enough
LONG_SILENCE = 30.0


class Progress:
    """A context in which no silence is long.

    Args:
        stream: where lines go; None is stderr as it then is.
        silence: seconds.
    """

    def __init__(self, stream: TextIO | None = None, silence: float = SILENCE) -> None:
        self._stream, self._silence = stream, silence
        self._what, self._begun = "", time.monotonic()
        self._heard = self._begun  # when the last line was said, by whomever
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if os.environ.get("RANK", "0") == "0":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def begin(self, what: str) -> None:
        """Say at once what is done from now on."""
        self.now(what)
        if self._thread.ident is not None:
            self._say(what)

    def now(self, what: str) -> None:
        """Note what is done from now on, to be said if it takes long."""
        self._what, self._begun = what, time.monotonic()

    def heard(self) -> None:
        """Somebody else has said something."""
        self._heard = time.monotonic()

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream or sys.stderr)
        (self._stream or sys.stderr).flush()
        self.heard()

    def _watch(self) -> None:
        while not self._over.wait(self._silence / 10):
            now = time.monotonic()
            spent = now - self._begun
            enough = self._silence if spent < PATIENCE else LONG_SILENCE
            if self._what and now - self._heard >= enough:
                self._say(f"... {self._what}, {spent:.0f} s")
