"""The rules of the layout: who may import whom, sizes, names that would shadow a library."""

import ast
import importlib.metadata
import re
import subprocess
import sys
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
SOURCE_FOLDERS = (*ALLOWED, "tests", "tools", "benchmarks")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# Libraries that ours import only where they are installed, so that the environment may lack them.
OPTIONAL_LIBRARIES = {
    "deepspeed",
    "flash_attn",
    "kernels",
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


def test_records_rewards_and_critic_do_not_import_torch() -> None:
    paths = [ROOT / "data" / "records.py", *sources("rewards", "critic")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'importing {name} imports torch'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


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
