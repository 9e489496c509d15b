"""The example of the model in `docs/use.md` runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (example,) = [text for text in examples if "tiny_config" in text]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["out"].loss > scope["out"].mtp_loss > 0  # type: ignore[attr-defined]
    assert (tmp_path / "out" / "config.json").exists() and scope["sparse"] is not None
