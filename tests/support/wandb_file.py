"""What W&B wrote offline, read back: its file is LevelDB's log of protocol buffers."""

import json
from collections.abc import Iterator
from pathlib import Path

HEADER, BLOCK, RECORD = 7, 32768, 7  # bytes: of the file, of a block, of a record's own header
WHOLE, LAST = 1, 4  # kinds of records; others go on in the next one


def wandb_records(file: Path) -> Iterator[object]:
    """The file's records, in order, as W&B's own class `Record`."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = file.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while at + RECORD <= len(data):
        if BLOCK - at % BLOCK < RECORD:  # a block's end, where no header fits
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + RECORD : at + RECORD + length]
        at += RECORD + length
        if kind in (WHOLE, LAST):
            record, part = Record.FromString(part), b""
            yield record


def wandb_run(file: Path) -> tuple[str, dict[str, object], dict[int, dict[str, object]]]:
    """The run's id, its configuration, and the values logged at each step, W&B's own left out."""
    name, config, history = "", {}, {}
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            name = record.run.run_id
        elif kind == "config":
            config |= {one.key: json.loads(one.value_json) for one in record.config.update}
        elif kind == "history":
            items = record.history.item
            row = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in items}
            step = row["_step"]
            assert step not in history, "one row a step"
            history[step] = {key: row[key] for key in row if not key.startswith("_")}
    return name, config, history
