"""The comparison's results and kept runs are of what its arms are today."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import harness
from exp_pointing import ROOT, Job, check_played, is_current, overrides_of

from pipelines.settings.load import dump_settings, load_settings

JOB = Job("sums", "ours", "1e-3", 0)


def test_a_result_counts_only_if_it_was_played_as_its_arm_is_today() -> None:
    """Runs at a constant rate stood under the name of the arm whose rate decays."""
    found = {"rounds": [], "overrides": overrides_of(JOB, ())}
    assert is_current(JOB.name, found, ())
    assert not is_current(JOB.name, {"rounds": []}, ())
    assert not is_current(JOB.name, found, ("evaluate.num_tasks=8",))
    assert not is_current("sums/oracle/1e-3/0", found, ())
    assert not is_current("products/ours_decay/1e-3/0", found, ())


def test_a_kept_run_that_was_played_otherwise_is_refused(tmp_path: Path) -> None:
    overrides = overrides_of(JOB, ())
    check_played(tmp_path, overrides)  # there is none yet
    settings = load_settings(ROOT / "configs" / "tiny.toml", overrides)
    (tmp_path / "config.json").write_text(dump_settings(settings))
    check_played(tmp_path, overrides)
    with pytest.raises(SystemExit, match=r"lr_scheduler_type = cosine, not constant: move it"):
        check_played(tmp_path, [*overrides, "learner.grpo.lr_scheduler_type=constant"])
    with pytest.raises(SystemExit, match=r"tasks\.params = "):
        check_played(tmp_path, [*overrides, "tasks.params={min_terms=7, max_terms=10}"])


def test_a_result_is_written_compactly_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    rounds = [{"at": n, "kinds": {"off by one": {"share": 0.5}}} for n in range(3)]
    content = {"results": {"a run": {"rounds": rounds, "said": "two\n        lines"}}}
    text = harness.write_result("tried", content).read_text()
    assert json.loads(text) == content and len(text.splitlines()) < 12
