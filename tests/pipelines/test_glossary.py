"""The glossary has the words that a run prints and a configuration asks for."""

import re
from pathlib import Path
from typing import get_args

from critic.monitor.settings import CHANNELS
from critic.monitor.state import Level
from pipelines.game.bout import Status
from pipelines.run.final_table import CRITIC
from pipelines.run.round_log import ROUND_STAGES
from pipelines.settings.role_table import CriticTable
from pipelines.settings.task_table import TaskTable

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
ENTRY = re.compile(r"^\| (?P<terms>\*\*.+?\*\*) \| (?P<meaning>.+) \|$")
ENTRIES = [found for line in PAGE.splitlines() if (found := ENTRY.match(line))]
TERMS = {term for entry in ENTRIES for term in re.findall(r"\*\*(.+?)\*\*", entry["terms"])}


def test_every_term_has_one_sentence_and_stands_once() -> None:
    assert len(ENTRIES) > 50
    assert len(TERMS) == sum(entry["terms"].count("**") // 2 for entry in ENTRIES), "one is twice"
    for entry in ENTRIES:
        assert re.fullmatch(r"[A-Z`].*[^.]\.", entry["meaning"]), entry["terms"]


def test_what_a_run_prints_is_explained() -> None:
    """Stages, the critic's measures, what became of a pointing, and the monitor's states."""
    named = {stage for joined in ROUND_STAGES for stage in joined.split(" and ")}
    explained = " ".join(TERMS)
    for word in (named | set(get_args(Status))) - {"trusted", "agreed"}:
        assert word in explained, word
    for name, _, _ in CRITIC:
        if "if perfectly" not in name and "parsed" not in name:
            assert any(term in name for term in TERMS), name
    monitor = next(entry["meaning"] for entry in ENTRIES if "**monitor**" in entry["terms"])
    assert all(level in monitor for level in get_args(Level))
    channel = next(entry["meaning"] for entry in ENTRIES if "**channel**" in entry["terms"])
    assert all(f"{name}, that" in channel for name in CHANNELS)


def test_what_a_configuration_names_is_explained() -> None:
    dialects = get_args(TaskTable.model_fields["dialect"].annotation)
    dialect = next(entry["meaning"] for entry in ENTRIES if "**dialect**" in entry["terms"])
    assert all(f"`{name}`" in dialect for name in dialects)
    for key in ("champion", "auditor", "imitation_steps", "pool_every"):
        assert key in CriticTable.model_fields and key.partition("_")[0] in TERMS
