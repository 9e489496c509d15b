"""What a step's line says."""

from pipelines.run.round_log import console_line

ROW = {
    "round": 1, "role": "critic", "step": 3, "reward/mean": 1.0, "rollout/token_entropy": 0.5,
}  # fmt: skip


def test_a_step_that_imitates_does_not_boast_of_a_reward() -> None:
    """Its replies all earn 1: the line of a critic that nobody could read said "reward 1"."""
    assert "reward 1" in console_line(ROW)
    line = console_line({**ROW, "block": "imitation", "imitation/nll": 7.8})
    assert "imitation nll 7.8" in line and "reward" not in line
