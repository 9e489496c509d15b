"""Synthetic data from the command line: `sparring-data` (or `python pipelines/dataset.py`).

    sparring-data generate FROM --out DIR --num N [--config FILE] [table.key=value ...]
    sparring-data merge OUT DIR...  shards of one generation as one data set
    sparring-data decontaminate FILE...   foreign data without what an evaluation set asks
    sparring-data inspect DIR       records to read
    sparring-data stats DIR         counts, rates, lengths, the critic's agreement
    sparring-data verify DIR        judge every record again
    sparring-data export DIR --format sft|dpo|critic|prompts --out FILE

FROM is a run directory (its selected or last checkpoint), one of its rounds (`RUN/best`), a
checkpoint directory, or addresses of servers with an OpenAI-compatible API. Only the command line
is here; `synthesis/` does each command's work. Exit
status: 0 done, 1 `verify` found differences or `decontaminate` without --out a leak, 2 a user's
mistake or too few tasks, 130 interrupted.
"""

import argparse
import errno
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.dataset_folder import open_records
from data.errors import UserError
from data.shard import WHOLE, read_shard
from pipelines.process import fail_clearly, prepare_process, require_checkout
from pipelines.run.progress import Progress
from pipelines.synthesis.decontaminate import HUMANEVAL, decontaminate, evaluation_texts
from pipelines.synthesis.export import export
from pipelines.synthesis.inspect import record_text, shown_records, statistics, statistics_text
from pipelines.synthesis.merge import Merged, merge
from pipelines.synthesis.plots import plots, write_page, write_picture
from pipelines.synthesis.request import Request, check_request
from pipelines.synthesis.verify import verify_records

DIFFERENT = 1
# What a file system answers to a writer or reader; any other OSError is a bug of ours.
DISK_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
     errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EMFILE)
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    # Overrides may stand among the options, where argparse's subcommands take no positionals.
    options, rest = parser.parse_known_args(given)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and options.command != "generate"):
        parser.error(f"unrecognized arguments: {' '.join(unknown or overrides)}")
    try:
        with fail_clearly(), _failing_disks_in_one_line():
            require_checkout()
            if options.command == "generate":
                with _saying_how_to_continue(given):
                    return _generate(options, overrides)
            return COMMANDS[options.command](options)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _failing_disks_in_one_line() -> Iterator[None]:
    """Turn a disk or folder that refuses into a user's mistake; what was complete stays whole."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{where}{error.strerror}: check the path and the room there; what was complete is "
            "kept, and `generate` goes on with --resume"
        ) from error


@contextmanager
def _saying_how_to_continue(given: Sequence[str]) -> Iterator[None]:
    """On Ctrl-C, print the command that goes on from there."""
    try:
        yield
    except KeyboardInterrupt:
        resume = [] if "--resume" in given else ["--resume"]
        command = shlex.join(["sparring-data", *given, *resume])
        print(f"\ncomplete batches are kept; continue with\n  {command}", file=sys.stderr)
        raise


def _generate(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    request = Request(
        source=options.source, out=options.out, num=options.num, split=options.split,
        seed=options.seed, group=options.group, batch=options.batch, resume=options.resume,
        config=options.config, critic=options.critic, criticise=not options.no_critic,
        overrides=tuple(overrides), model=options.model, key_variable=options.key_variable,
        shard=read_shard(options.shard) if options.shard else WHOLE,
    )  # fmt: skip
    check_request(request)  # a mistake fails at once, before torch is imported
    if options.ray is not None:
        return _generate_on_ray(request, options)
    with Progress() as progress:
        progress.begin("loading PyTorch and the engine")
        prepare_process()
        from pipelines.synthesis.generate import generate

    generate(request)
    found = statistics(open_records(options.out))
    if options.json:
        print(json.dumps({"out": str(options.out)} | found))
    else:
        print(_summary(options.out, found))
    return 0


def _generate_on_ray(request: Request, options: argparse.Namespace) -> int:
    from pipelines.synthesis.on_ray import generate_on_ray

    merged = generate_on_ray(request, options.ray, prepare_process)
    _say_merged(merged, options)
    return 0


def _summary(out: Path, found: Mapping[str, object]) -> str:
    reasons = found["reasons"]
    assert isinstance(reasons, dict), "statistics() made it"
    shown = ", ".join(f"{num} {reason}" for reason, num in reasons.items())
    return (
        f"{found['accepted']} accepted of {found['samples']} samples; {found['rejected']} rejected"
        f"{f' ({shown})' if shown else ''}\n"
        f'read them: datasets.load_dataset("parquet", data_dir="{out}"); card: {out / "README.md"}'
    )


def _inspect(options: argparse.Namespace) -> int:
    for row in shown_records(open_records(options.directory), options.num, options.rejected):
        print(json.dumps(row, ensure_ascii=False) if options.json else record_text(row) + "\n")
    return 0


def _stats(options: argparse.Namespace) -> int:
    reader = open_records(options.directory, options.dialect)
    found = statistics(reader)
    if options.html or options.png:
        drawn, title = plots(reader), f"Data set {options.directory.resolve().name}"
        if options.html:
            write_page(drawn, found, title, options.html)
        if options.png:
            write_picture(drawn, title, options.png)
    print(json.dumps(found, indent=2) if options.json else statistics_text(found))
    return 0


def _verify(options: argparse.Namespace) -> int:
    found = verify_records(open_records(options.directory, options.dialect))
    if options.json:
        versions = [
            {"verifier": name, "then": then, "now": now, "records": num}
            for (name, then, now), num in found.versions.items()
        ]
        differing = [asdict(one) for one in found.differing]
        said = {"records": found.records, "differing": differing, "missing": found.missing}
        print(json.dumps(said | {"versions": versions, "unchecked": found.unchecked}))
    else:
        for line in found.lines():
            print(line)
        print(f"{found.records} records verified again, {len(found.differing)} differ")
    return 0 if found.holds else DIFFERENT


def _export(options: argparse.Namespace) -> int:
    records = open_records(options.directory, options.dialect)
    num = export(records, options.format, options.out, options.force)
    print(json.dumps({"rows": num}) if options.json else f"{num} rows in {options.out}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    _say_merged(merge(options.out, options.shards, partial=options.partial), options)
    return 0


def _say_merged(merged: Merged, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({"out": str(options.out)} | asdict(merged)))
        return
    for row in merged.shards:
        print(f"{row['shard']}: {row['kept']} of {row['accepted']} accepted records kept")
    dropped = ", ".join(f"{num} {why}" for why, num in merged.dropped.items())
    print(
        f"{merged.accepted} accepted and {merged.rejected} rejected records in {options.out}; "
        f"dropped by the merge, kept as rejected: {dropped or 'none'}"
    )


def _decontaminate(options: argparse.Namespace) -> int:
    texts = evaluation_texts(
        options.against or [HUMANEVAL], options.run or [], options.against_fields
    )
    cleaned = decontaminate(options.files, texts, options.out, options.fields)
    if options.json:
        print(json.dumps(asdict(cleaned) | {"num_dropped": cleaned.num_dropped}))
    else:
        for row in cleaned.examples:
            print(f"{row['source']}, row {row['row']}, as in {row['set']}: {row['shares']}")
        for source, num in cleaned.rows.items():
            found = [f"{n} as in {name}" for name, n in cleaned.dropped[source].items()]
            print(f"{source}: {num} rows, contaminated: {', '.join(found) or 'none'}")
        print("compared with " + ", ".join(f"{n} texts of {s}" for s, n in cleaned.texts.items()))
    return DIFFERENT if cleaned.num_dropped and options.out is None else 0


COMMANDS = {
    "decontaminate": _decontaminate,
    "merge": _merge,
    "inspect": _inspect,
    "stats": _stats,
    "verify": _verify,
    "export": _export,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparring-data", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser(
        "generate", help="sample, verify, criticise and filter records", allow_abbrev=False
    )
    text = "run or checkpoint directory, or http://HOST:PORT/v1[,http://...]"
    making.add_argument("source", metavar="FROM", help=text)
    making.add_argument("--model", default="", help="what the servers call it")
    text = "environment variable with the servers' key"
    making.add_argument("--key-variable", default="", metavar="NAME", help=text)
    making.add_argument("--out", type=Path, required=True, help="directory to write")
    making.add_argument("--num", type=int, required=True, help="accepted records wanted")
    making.add_argument("--config", type=Path, help="TOML settings, for a checkpoint")
    making.add_argument("--split", default="train", help="split of the tasks")
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--group", type=int, default=4, help="solutions per task")
    making.add_argument("--batch", type=int, default=0, help="tasks per batch; 0 fills the engine")
    making.add_argument("--critic", type=Path, help="checkpoint that judges; default: FROM's own")
    making.add_argument("--no-critic", action="store_true", help="no critiques")
    making.add_argument("--shard", default="", metavar="i/n", help="this part of the tasks alone")
    text = "this many shards as rows of a Ray data set, then merged"
    making.add_argument("--ray", type=int, metavar="N", help=text)
    making.add_argument("--resume", action="store_true", help="continue what --out holds")
    merging = commands.add_parser("merge", help="join shards", allow_abbrev=False)
    merging.add_argument("out", type=Path, metavar="OUT", help="directory to write")
    merging.add_argument("shards", type=Path, nargs="+", metavar="SHARD")
    merging.add_argument("--partial", action="store_true", help="unfinished and missing shards too")
    merging.add_argument("--json", action="store_true")
    _add_decontaminate(commands)
    for name, text in (
        ("inspect", "print records"), ("stats", "count"),
        ("verify", "judge every record again by rule"), ("export", "write JSONL for a trainer"),
    ):  # fmt: skip
        reading = commands.add_parser(name, help=text, allow_abbrev=False)
        reading.add_argument("directory", type=Path, metavar="DIR")
        reading.add_argument("--dialect", default="", help="where DIR does not say it")
        reading.add_argument("--json", action="store_true")
        if name == "inspect":
            reading.add_argument("--num", type=int, default=5)
            reading.add_argument("--rejected", action="store_true", help="rejected ones instead")
        if name == "stats":
            reading.add_argument("--html", type=Path, metavar="FILE", help="figures as one page")
            reading.add_argument("--png", type=Path, metavar="FILE", help="figures as a picture")
        if name == "export":
            formats = "sft, dpo, prompts, critic or critic_prompts"
            reading.add_argument("--format", required=True, help=formats)
            reading.add_argument("--out", type=Path, required=True, help="file to write")
            reading.add_argument("--force", action="store_true", help="overwrite the file")
    making.add_argument("--json", action="store_true", help="statistics as JSON at the end")
    return parser


def _add_decontaminate(commands: Any) -> None:
    cleaning = commands.add_parser(
        "decontaminate", help="foreign data without what evaluations ask", allow_abbrev=False
    )
    text = "JSON lines, Parquet, or NAME[:SPLIT] of `datasets`"
    cleaning.add_argument("files", nargs="+", metavar="FILE", help=text)
    text = "the same, of evaluations; default: humaneval"
    cleaning.add_argument("--against", action="extend", nargs="+", metavar="FILE", help=text)
    text = "a run, or a set of `generate`: its held-out tasks too"
    cleaning.add_argument("--run", action="extend", nargs="+", type=Path, metavar="DIR", help=text)
    cleaning.add_argument("--out", type=Path, help="folder to write; without it rows are counted")
    text = "names, with commas between; default: all texts"
    cleaning.add_argument("--fields", type=_names, default=[], help=text)
    cleaning.add_argument("--against-fields", type=_names, default=[], help="of evaluation rows")
    cleaning.add_argument("--json", action="store_true")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
