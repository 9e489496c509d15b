"""How a critic that got worse comes back: silenced, restored, retrained, heard again.

    alarms in two checks in a row ──► silence_critic, restore_critic (to its last good check)
    silenced, and still alarming  ──► retrain_critic (true critiques alone, for some rounds); also
                                      one that is not silenced, since it points at nothing
    silenced, and calm            ──► unsilence_critic, while it could be silenced once more

A critic that never was any good does not get worse, so that nothing alarms: one whose verdicts stay
at chance is warned of, has no champion to go back to, and is not heard again.

Pure functions. Leaves out what an alarm is (`critic/monitor/evidence.py`), and carrying orders out
(`pipelines/run/monitoring.py`).
"""

import statistics
from collections.abc import Sequence

from critic.monitor.readings import Frozen, Reading, is_beyond
from critic.monitor.settings import ActionKind, MonitorSettings

REPAIRS: tuple[ActionKind, ...] = ("silence_critic", "restore_critic", "retrain_critic")
CHANCE = 0.5  # the AUROC of a critic that says nothing, the same of all, or anything at random
BETTER = 2.0  # standard errors above it that are not luck: 2% of critics at chance pass


class CriticRecord(Frozen):
    """What is remembered of the critic beside its signals.

    Attributes:
        bad: checks in a row at which one of its signals alarmed, silenced or not.
        calm: checks in a row, while it is silenced, at which its signals were read and neither they
            nor channel E alarmed.
        champion: the last check whose critic had signals none of which alarmed, nor would have if
            the next reading had been as bad.
        auroc: of its verdicts on the audit, at the latest `chance_checks` checks that have it.
    """

    bad: int = 0
    calm: int = 0
    champion: int | None = None
    auroc: tuple[Reading, ...] = ()


def followed(
    record: CriticRecord,
    check: int,
    settings: MonitorSettings,
    *,
    is_read: bool,
    auroc: Reading | None,
    alarms: bool,
    is_doubtful: bool,
    learner_alarms: bool,
    is_silenced: bool,
) -> CriticRecord:
    """The record after one more check.

    Args:
        record: before it.
        check: its number.
        settings: thresholds.
        is_read: whether any of the critic's signals has a reading.
        auroc: of its verdicts; None where no critic is at work, or it could not be measured.
        alarms: whether one of them alarms.
        is_doubtful: whether another reading like one of these may be an alarm.
        learner_alarms: whether channel E alarms.
        is_silenced: whether the critic was silenced before the check.
    """
    latest = record.auroc
    if auroc is not None and auroc.is_readable:
        latest = (*latest, auroc)[-max(settings.chance_checks, 1) :]
    knows = not at_chance(latest, settings)
    is_calm = knows and is_silenced and is_read and not alarms and not learner_alarms
    is_good = knows and is_read and not alarms and not is_doubtful
    return CriticRecord(
        bad=record.bad + 1 if alarms else 0,
        calm=record.calm + 1 if is_calm else 0,
        champion=check if is_good else record.champion if knows else None,
        auroc=latest,
    )


def since_repair(record: CriticRecord, ordered: Sequence[ActionKind]) -> CriticRecord:
    """The record after a check's orders: what was measured of other weights is forgotten."""
    changed = {"restore_critic", "retrain_critic"} & set(ordered)
    return record.model_copy(update={"auroc": ()}) if changed else record


def at_chance(latest: Sequence[Reading], settings: MonitorSettings) -> str:
    """That a critic's verdicts are no better than chance, with the figures; else an empty line.

    AUROC does not depend on how many of the audited solutions are sound, and a critique that cannot
    be read counts as undecided. Every audit is of the same solutions, whose luck the mean of
    several keeps: its error is the mean of theirs.

    Args:
        latest: AUROC at the latest checks.
        settings: thresholds; fewer than `chance_checks` readings say nothing.
    """
    if not settings.chance_checks or len(latest) < settings.chance_checks:
        return ""
    value = statistics.fmean(one.value for one in latest)
    error = statistics.fmean(one.error for one in latest)
    if is_beyond(Reading(value=value - CHANCE, error=error), BETTER):
        return ""
    return (
        f"over {len(latest)} checks the critic's verdicts were no better than chance: AUROC "
        f"{value:.2f} ± {error:.2g}"
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
