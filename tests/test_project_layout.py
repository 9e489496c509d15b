"""The rules of the layout: who may import whom, sizes, names that would shadow a library.

The rooms of `pipelines/` stand on floors: an import may only point to a lower one.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "pipelines": {"critic", "rewards", "data", "model"},
    "critic": {"rewards", "data"},
    "rewards": {"data"},
    "data": set[str](),
    "model": set[str](),
}
# From the top; rooms of one floor do not know each other.
FLOORS = (
    ("programs",),
    ("synthesis", "inference", "guard"),
    ("run",),
    ("game", "training"),
    ("rollouts",),
    ("sync",),
    ("policy",),
    ("settings",),
    ("report",),
    ("process",),
    ("errors",),
)
PROGRAMS = ("rl", "sft", "dataset", "evaluate", "smollm2")
MAX_ARROWS = 42
SOURCE_FOLDERS = (*ALLOWED, "tests", "tools", "benchmarks")
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
# Libraries that ours import only where they are installed, so that the environment may lack them.
OPTIONAL_LIBRARIES = {
    "deepspeed",
    "flash_attn",
    "kernels",
    "ray",
    "triton",
    "wandb",
    "torchvision",
    "vllm",
}
# Spelled in pieces: this file is searched too.
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:" + "ro" + r"ot|wo" + r"rk|ho" + r"me/\w+|Us" + r"ers/\w+)/"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, in functions too; relative imports stay inside."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = len(path.relative_to(ROOT).parts) - 1
            assert node.level <= inside, f"{path}:{node.lineno} imports from above its package"
            if node.level == 0:
                names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    files = sources(package)
    assert files, f"package {package} has no files"
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in files
        if (bad := imported(path) & (set(ALLOWED) - ALLOWED[package] - {package}))
    }
    assert not wrong, f"{package} may import only {sorted(ALLOWED[package])}: {wrong}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of one of `pipelines`' modules."""
    own = module.split(".")[1]
    return "programs" if own in PROGRAMS else own


def arrows() -> dict[tuple[str, str], list[str]]:
    """Which room imports which, in functions too, and where."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for path in sources("pipelines"):
        module = module_of(path)
        if module == "pipelines":
            continue
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "pipelines":
                names = [f"pipelines.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                if name.startswith("pipelines.") and room_of(name) != room_of(module):
                    place = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                    found[room_of(module), room_of(name)].append(place)
    return found


def test_rooms_import_only_lower_floors() -> None:
    """So that there is no circle either, and no more arrows than one can hold in mind."""
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    found = arrows()
    unknown = {room for arrow in found for room in arrow} - set(floor)
    assert not unknown, f"give these rooms of pipelines/ a floor in FLOORS: {sorted(unknown)}"
    alone = [arrow for arrow in found if arrow[0] in ("report", "errors")]
    assert set(alone) <= {("report", "errors")}, f"these read nothing of the other rooms: {alone}"
    upwards = [
        place for (one, other), places in found.items() if floor[other] <= floor[one]
        for place in places
    ]  # fmt: skip
    assert not upwards, "these point up, or to the same floor:\n" + "\n".join(upwards)
    assert len(found) <= MAX_ARROWS, f"{len(found)} arrows between rooms: {sorted(found)}"


def test_only_programs_stand_at_the_top_of_pipelines() -> None:
    """Fifteen places or so at a glance."""
    top = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    assert top == {"__init__", *PROGRAMS, "process", "errors"}
    rooms = {path.parent.name for path in (ROOT / "pipelines").glob("*/__init__.py")}
    assert rooms == {room for floor in FLOORS for room in floor} - {"programs", "process", "errors"}


def imports_none_of(libraries: tuple[str, ...], paths: list[Path]) -> None:
    """Check in a process of its own, module by module, what importing brings in."""
    program = (
        "import importlib, sys\n"
        "libraries = sys.argv[1].split(',')\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    found = [library for library in libraries if library in sys.modules]\n"
        "    assert not found, f'importing {name} imports {found}'\n"
    )
    modules = [module_of(path) for path in paths]
    assert modules, "nothing to import"
    done = subprocess.run(
        [sys.executable, "-c", program, ",".join(libraries), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_records_rewards_and_critic_do_not_import_torch() -> None:
    paths = [ROOT / "data" / "records.py", *sources("rewards", "critic")]
    imports_none_of(("torch",), paths)


def test_games_and_settings_import_neither_torch_nor_trl_nor_vllm() -> None:
    """A rule of a game is read, tested and changed without any of them."""
    paths = sources("pipelines/game", "pipelines/settings")
    imports_none_of(("torch", "trl", "vllm"), paths)


WRITTEN_BY_A_RUN = {"incident.md"}


def test_programs_start_without_torch() -> None:
    """Its threads read what `prepare_process` sets, and a typo is not worth seconds of imports."""
    programs = [ROOT / "pipelines" / f"{name}.py" for name in (*PROGRAMS, "process", "errors")]
    imports_none_of(("torch", "transformers", "trl", "vllm", "datasets", "model"), programs)


NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|md|toml))`")


def prose() -> dict[str, str]:
    """Docstrings and comments of every source file, and every page of documentation."""
    found = {}
    for path in sources(*SOURCE_FOLDERS):
        text = path.read_text()
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, DOCUMENTED)]
        parts = [ast.get_docstring(node) or "" for node in nodes]
        parts += [line for line in text.splitlines() if "#" in line]
        found[str(path.relative_to(ROOT))] = "\n".join(parts)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return found | {str(page.relative_to(ROOT)): page.read_text() for page in pages}


def test_every_file_that_prose_names_exists() -> None:
    tops = (*SOURCE_FOLDERS, "configs", "docs", "locks", ".ci", "README.md")
    files = [path for top in tops for path in [ROOT / top, *(ROOT / top).rglob("*")]]
    every = [path.relative_to(ROOT) for path in files]
    ends = {"/".join(path.parts[first:]) for path in every for first in range(len(path.parts))}
    missing = [
        f"{place} names {name}" for place, text in prose().items()
        for name in NAMED_FILE.findall(text) if name not in ends | WRITTEN_BY_A_RUN
    ]  # fmt: skip
    assert not missing, "no such files:\n" + "\n".join(missing)


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in sources(*SOURCE_FOLDERS):
        text = path.read_text()
        place = path.relative_to(ROOT)
        if (num_lines := len(text.splitlines())) > MAX_FILE_LINES:
            long.append(f"{place}: {num_lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(text, str(path))):
            if isinstance(node, Function) and node.end_lineno is not None:
                num_lines = node.end_lineno - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    long.append(f"{place}: {node.name} has {num_lines} lines, at most 60")
    assert not long, "split these:\n" + "\n".join(long)


def test_no_program_shadows_a_library() -> None:
    """A script's folder comes first on sys.path, so pipelines/logging.py would hide logging."""
    ours = {path.stem for path in (ROOT / "pipelines").glob("*.py")} - {"__init__"}
    ours |= {path.parent.name for path in (ROOT / "pipelines").glob("*/__init__.py")}
    taken = set(sys.stdlib_module_names) | OPTIONAL_LIBRARIES | set(ALLOWED)
    taken |= set(importlib.metadata.packages_distributions())
    assert not ours & taken, f"rename in pipelines/: {sorted(ours & taken)}"


def test_the_checks_pass_over_a_users_files() -> None:
    """Git and ruff leave alone what docs/use.md tells a user to write here."""
    names = ["mine.py", "mine.jsonl", "mine/rewards.py"]
    command = ["git", "-C", str(ROOT), "check-ignore", *names]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == names


def test_no_machine_paths_in_tracked_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    found = []
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file():  # a deletion may be uncommitted
            lines = path.read_bytes().decode(errors="replace").splitlines()
            found += [f"{name}:{n}: {t}" for n, t in enumerate(lines, 1) if MACHINE_PATH.search(t)]
    assert not found, "paths of one machine:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_machine_path"),
    [
        ("cd /" + "root/x", True),
        ("'/" + "home/ann/runs'", True),
        ("the /" + "work/main folder", True),
        ("runs/first/checkpoints", False),
        ("a/" + "work/b", False),
        ("framework/", False),
    ],
)
def test_machine_paths_are_recognised(line: str, is_machine_path: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) == is_machine_path
