"""A tracker as a user writes one: Accelerate's interface, one JSON line per row."""

import json
from pathlib import Path

from accelerate.tracking import GeneralTracker


class Lines(GeneralTracker):
    """Appends rows to a file in the run's folder."""

    file_name = "tracked.jsonl"

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.run_name, self.file = run_name, Path(logging_dir) / self.file_name

    @property
    def tracker(self) -> Path:
        return self.file

    def store_init_configuration(self, values: dict) -> None:
        self._write({"config": values, "name": self.run_name})

    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        self._write({"at": step, **values})

    def finish(self) -> None:
        self._write({"finished": self.run_name})

    def _write(self, row: dict) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


class Broken(Lines):
    """Fails from its second row on, as a service does that is gone."""

    file_name = "broken.jsonl"

    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        if step:
            raise ConnectionError("the service is gone")


NO_TRACKER = print
