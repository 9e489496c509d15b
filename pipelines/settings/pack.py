"""A task pack: a folder that brings tasks, what judges them, their wording and rewards of its own.

    pack.toml     [tasks] and [rewards], as in a configuration; its paths are within the folder
    prompt.txt    tasks.prompt_template, with {question}
    rubric.md     rewards.judge.prompt, where the configuration or the pack has a judge
    *.jsonl       problems, where pack.toml names them as tasks.path and tasks.test_path
    *.py          reward functions, where pack.toml names them under rewards.functions

`tasks.pack = FOLDER` lays the configuration over it. Leaves out what the tables mean
(`task_table.py`, `reward_table.py`).
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from data.rows import looks_local
from pipelines.errors import UserError, did_you_mean
from pipelines.settings.task_table import SourceTable

PACK_FILE = "pack.toml"
TABLES = ("tasks", "rewards")
SOURCE_KEYS = frozenset({*SourceTable.model_fields, "mixture"})  # the pack's alone

Tables = dict[str, object]


def with_pack(tables: Tables) -> Tables:
    """The tables of a configuration, laid over those of the pack that they name; else unchanged.

    Raises:
        UserError: there is no such pack, it is faulty, or the configuration names tasks beside it.
    """
    tasks = tables.get("tasks")
    if not isinstance(tasks, dict) or not tasks.get("pack"):
        return tables
    folder = Path(str(tasks["pack"]))
    if beside := sorted(SOURCE_KEYS & tasks.keys()):
        raise UserError(
            f"tasks.pack = {str(folder)!r} brings its own tasks, and the configuration sets "
            f"{', '.join(f'tasks.{key}' for key in beside)} beside it: remove one of them"
        )
    return _over(_read(folder, has_judge=_has_judge(tables)), tables)


def _has_judge(tables: Tables) -> bool:
    rewards = tables.get("rewards")
    return isinstance(rewards, dict) and isinstance(rewards.get("judge"), dict)


def _read(folder: Path, has_judge: bool) -> Tables:
    """A pack's tables, every path within the folder."""
    path = folder / PACK_FILE
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"tasks.pack: there is no {path}: name a folder that holds a {PACK_FILE}, such as "
            "configs/packs/arithmetic"
        ) from None
    except OSError as error:
        raise UserError(f"tasks.pack: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    for name, table in tables.items():
        if name not in TABLES:
            raise UserError(
                f"{path}: a pack holds the tables [tasks] and [rewards] alone: {name} belongs "
                f"into a configuration ({did_you_mean(name, TABLES)})"
            )
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} = {table!r:.80} is no table: write [{name}] above it")
    tasks, rewards = tables.get("tasks", {}), tables.get("rewards", {})
    if "pack" in tasks:
        raise UserError(
            f"{path}: tasks.pack = {tasks['pack']!r}: a pack names no other one: copy into it what "
            "it needs of that"
        )
    _place_files(tasks, folder)
    parts = tasks.get("mixture")
    for part in parts if isinstance(parts, list) else ():  # pydantic names the wrong type
        if isinstance(part, dict):
            _place_files(part, folder)
    functions = rewards.get("functions")
    if isinstance(functions, dict):
        rewards["functions"] = {_placed(name, folder): w for name, w in functions.items()}
    wording, rubric = _text(folder / "prompt.txt"), _text(folder / "rubric.md")
    if wording:
        tasks.setdefault("prompt_template", wording)
    judge = rewards.get("judge", {})
    if rubric and isinstance(judge, dict) and (judge or has_judge):
        rewards["judge"] = {"prompt": rubric, **judge}
    return {"tasks": tasks, "rewards": rewards}


def _place_files(part: Tables, folder: Path) -> None:
    """Paths of a source of JSON lines, or of a dataset's folder, from the pack's folder on."""
    for key in ("path", "test_path"):
        given = part.get(key)
        if isinstance(given, str) and given and _is_within(given, folder, part.get("source")):
            part[key] = str(folder / given)


def _is_within(given: str, folder: Path, source: object) -> bool:
    is_path = source == "jsonl" or looks_local(given) or (folder / given).exists()
    return is_path and not Path(given).is_absolute()


def _placed(function: str, folder: Path) -> str:
    """A reward function of a file, `FILE.py:NAME`, from the pack's folder on."""
    file, _, name = function.rpartition(":")
    return f"{folder / file}:{name}" if file.endswith(".py") else function


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        return path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from None


def _over(below: Mapping[str, object], above: Mapping[str, object]) -> Tables:
    """Nested tables, the second laid over the first."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _over(under, value)
        merged[name] = value
    return merged
