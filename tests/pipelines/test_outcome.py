"""What a person reads of a run: the figures are of all that happened."""

import pytest

from pipelines.run.round_log import ROUND_STAGES
from pipelines.run.summary import sync_costs

COSTS = {"checksum": 0.1, "coverage": 0.01, "sync": 0.3, "probe": 0.2}
PER_PARAMETER = {"transfer_ns_per_parameter": 5.0, "proof_ns_per_parameter": 2.0}


def _step(in_the_block: float) -> dict[str, object]:
    """A step's row: the block's own timer misses a sync that an evaluation before it had made."""
    costs = {f"time/sync/{name}": cost for name, cost in (COSTS | PER_PARAMETER).items()}
    return {"kind": "step", "time/step": 10.0, "time/sync": in_the_block, **costs}


def test_a_sync_between_blocks_counts_in_the_syncs_share() -> None:
    around = {"kind": "round"} | {f"time/{stage}": 5.0 for stage in ROUND_STAGES}
    found = sync_costs([_step(0.0), _step(0.41), around])
    assert found == pytest.approx(
        {
            "share_of_steps": 0.041,
            "proof_share_of_rounds": 2 * 0.21 / (5 * len(ROUND_STAGES)),
            **PER_PARAMETER,
        }
    )


def test_a_run_that_moves_no_weights_has_no_such_costs() -> None:
    assert sync_costs([{"kind": "step", "time/step": 1.0}, {"kind": "round"}]) == {}
