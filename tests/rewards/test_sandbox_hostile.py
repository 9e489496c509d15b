"""Hostile programs in every strong sandbox that works here: none gets out, and nothing stays."""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_programs import HOSTILE, Bare, Hostile
from hostile_world import World, descendants, planted

from rewards.sandbox.launch import missing
from rewards.sandbox.sandbox import Sandbox, SandboxError
from rewards.sandbox.settings import Kind, SandboxSettings

TIMEOUT = 10.0  # no program here needs a tenth of a second
AT_REST = 6  # launcher, guest, keeper, program, examiner; bubblewrap has one of its own


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with planted(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture(scope="module", params=["namespaces", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    kind: Kind = request.param
    why = missing(kind)
    found = Sandbox(SandboxSettings(memory_mb=128), TIMEOUT, kind)
    if not why:
        try:
            found.start()
        except SandboxError as error:
            why = str(error)
    if why:
        pytest.skip(f"{kind}: {why}")
    yield found
    pid = found.pid
    assert pid is not None, "the guest died of a program"
    below = descendants(pid)
    found.close()
    assert below and not any(Path(f"/proc/{one}").exists() for one in (pid, *below))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: one.name)
def test_hostile_program_does_not_get_out(hostile: Hostile, sandbox: Sandbox, world: World) -> None:
    if hostile.name == "thread bomb" and sandbox.kind == "bubblewrap" and os.geteuid() == 0:
        pytest.skip("the kernel does not limit root's threads (docs/limits.md)")
    outcome = sandbox.run_script([world.filled_in(hostile.program)])
    assert outcome.ended != "fault", outcome
    assert b"ESCAPED" not in outcome.stdout + outcome.stderr, outcome
    assert not world.touched()
    assert_at_rest(sandbox)
    # What it did is gone with it, and the sandbox works as before.
    after = sandbox.run_script(
        ["import os\nprint(os.listdir('/tmp'), os.getcwd(), len(os.environ))"]
    )
    assert (after.stdout, after.exit) == (b"[] /tmp 0\n", 0), after


def assert_at_rest(sandbox: Sandbox) -> None:
    """Nothing runs but what is warm for the next job."""
    assert sandbox.pid is not None
    deadline = time.monotonic() + 20
    while len(found := descendants(sandbox.pid)) > AT_REST:
        assert time.monotonic() < deadline, f"left running: {found}"
        time.sleep(0.05)


BARE = [one for one in HOSTILE if one.bare is Bare.ESCAPES]


def test_the_table_is_large_and_can_fail() -> None:
    assert len(HOSTILE) >= 135 and len(BARE) >= 55
    assert len({one.name for one in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("hostile", BARE, ids=lambda one: one.name)
def test_without_a_sandbox_it_gets_out(hostile: Hostile, world: World, tmp_path: Path) -> None:
    """So that the test above can fail: the same program, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", world.filled_in(hostile.program)], cwd=tmp_path, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert b"ESCAPED" in done.stdout or world.touched(), done
    world.touched()


NEEDED = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions")
AS_NOBODY = """
import sys
sys.path.insert(0, sys.argv[1])
from rewards.sandbox.sandbox import Sandbox
from rewards.sandbox.settings import SandboxSettings
one = Sandbox(SandboxSettings(), 10.0, "namespaces")
for text in (
    'print(open("/etc/passwd").read())', "import os; os.fork()",
    'import os; print(os.getuid(), os.listdir("/tmp"))',
):
    print(one.run_script([text]))
one.close()
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that another user may read; pytest's own are closed again by every other session."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_as_an_ordinary_user(open_folder: Path) -> None:
    """root gives a program another user's id; an ordinary user's sandbox is as tight."""
    if os.geteuid() != 0:
        pytest.skip("the other tests have run as an ordinary user")
    version = sys.version_info[:2]
    found = [os.path.realpath(sys.executable), shutil.which("python3", path="/usr/bin")]
    same = f"import sys; assert sys.version_info[:2] == {version}"
    python = next((one for one in found if one and nobody_can(one, same)), None)
    if python is None:
        pytest.skip("no Python of this version that another user may run")
    root = Path(__file__).parents[2]
    for package in ("rewards", "data"):
        shutil.copytree(root / package, open_folder / package)
    for package in NEEDED:
        origin = Path(str(importlib.import_module(package).__file__))
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, open_folder / package)
        else:
            shutil.copy(origin, open_folder)
    done = as_nobody(python, AS_NOBODY, str(open_folder))
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    assert "FileNotFoundError" in lines[0] and "PermissionError" in lines[1]
    assert "exit=0" in lines[2] and "1000 []" in lines[2]


def as_nobody(python: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", program, *arguments], user=65534, group=65534, extra_groups=[], cwd="/",
        text=True, capture_output=True, env={},
    )  # fmt: skip


def nobody_can(python: str, program: str) -> bool:
    try:
        return as_nobody(python, program).returncode == 0
    except OSError:
        return False
