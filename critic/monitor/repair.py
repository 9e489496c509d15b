"""How a critic that got worse comes back: silenced, restored, retrained, heard again.

    alarms in two checks in a row ──► silence_critic, restore_critic (to its last good check)
    silenced, and still alarming  ──► retrain_critic (true critiques alone, for some rounds); also
                                      one that is not silenced, since it points at nothing
    silenced, and calm            ──► unsilence_critic, while it could be silenced once more

A critic that never was any good is not worse than before, and nothing alarms: one that for
`dead_checks` told nothing is warned of.

Pure functions. Leaves out what an alarm is (`critic/monitor/evidence.py`), and carrying orders out
(`pipelines/run/monitoring.py`).
"""

from collections.abc import Mapping

from critic.monitor.readings import Frozen, Reading
from critic.monitor.settings import ACCUSED, LOCATED, PARSED, ActionKind, MonitorSettings

REPAIRS: tuple[ActionKind, ...] = ("silence_critic", "restore_critic", "retrain_critic")
LEAST_READ = 0.5  # share of its critiques that must be read before a critic tells anything


class CriticRecord(Frozen):
    """What is remembered of the critic beside its signals.

    Attributes:
        bad: checks in a row at which one of its signals alarmed, silenced or not.
        calm: checks in a row, while it is silenced, at which its signals were read and neither they
            nor channel E alarmed.
        champion: the last check whose critic had signals none of which alarmed, nor would have if
            the next reading had been as bad.
        idle: checks in a row at which it told nothing (`tells_nothing`), and was heard.
    """

    bad: int = 0
    calm: int = 0
    idle: int = 0
    champion: int | None = None


def tells_nothing(readings: Mapping[str, Reading | None]) -> bool:
    """Whether a critic at work says nothing that helps: it is not read, or accuses at random.

    One that names a step of so many solutions by chance locates no more of the flawed ones than it
    accuses of the sound ones.

    Args:
        readings: of one check; without `critic_parsed` no critic is at work.
    """
    parsed, located, accused = (readings.get(name) for name in (PARSED, LOCATED, ACCUSED))
    if parsed is None:
        return False
    if parsed.value < LEAST_READ:
        return True
    return located is not None and accused is not None and located.value <= accused.value


def followed(
    record: CriticRecord,
    check: int,
    *,
    is_read: bool,
    is_idle: bool,
    alarms: bool,
    is_doubtful: bool,
    learner_alarms: bool,
    is_silenced: bool,
) -> CriticRecord:
    """The record after one more check.

    Args:
        record: before it.
        check: its number.
        is_read: whether what it says could be judged.
        is_idle: whether it told nothing.
        alarms: whether one of them alarms.
        is_doubtful: whether another reading like one of these may be an alarm.
        learner_alarms: whether channel E alarms.
        is_silenced: whether the critic was silenced before the check.
    """
    is_calm = is_silenced and is_read and not alarms and not learner_alarms
    is_good = is_read and not alarms and not is_doubtful
    return CriticRecord(
        bad=record.bad + 1 if alarms else 0,
        calm=record.calm + 1 if is_calm else 0,
        idle=record.idle + 1 if is_idle and not is_silenced else 0,
        champion=check if is_good else record.champion,
    )


def repairs(
    record: CriticRecord, is_silenced: bool, may_be_silenced: bool, settings: MonitorSettings
) -> tuple[tuple[ActionKind, ...], str]:
    """What a critic that is not heard calls for, and why.

    Args:
        record: after this check.
        is_silenced: whether it was silenced before.
        may_be_silenced: whether it could be silenced once more.
        settings: thresholds.
    """
    if not is_silenced:
        if settings.critic_points or record.bad <= settings.consecutive:
            return (), ""
        return ("retrain_critic",), f"the critic still alarms, for {record.bad} checks"
    if record.bad >= settings.consecutive:
        return ("retrain_critic",), f"silenced, the critic alarms for {record.bad} checks"
    if record.calm >= settings.calm_checks and may_be_silenced:
        return ("unsilence_critic",), f"the critic is well again for {record.calm} checks"
    return (), ""
