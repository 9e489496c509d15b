"""Measured critiques made by hand, for the tests of the critic's figures."""

from critic.measured import MeasuredCritique


def critique(
    p_sound: float = 0.5,
    *,
    sound: bool = True,
    named: str | None = None,
    first_bad: str | None = None,
    kind: str | None = None,
    parsed: bool = True,
    task: str = "t",
    solution: str = "s",
) -> MeasuredCritique:
    """A critique; it accuses where it names a step."""
    return MeasuredCritique(task, solution, sound, p_sound, named, first_bad, kind, parsed)


UNREAD = {"p_sound": 0.5, "parsed": False}
