"""The readings of a gold probe: samples of fixed tasks under fixed conditions, and nothing else.

The same for a run of ours (`pipelines/run/monitoring.py`) and a foreign one (`pipelines/guard/`).
Leaves out sampling, verdicts, and the signals that are not of the probe: rewards and the critic's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from critic.monitor import signals
from critic.monitor.readings import Reading
from critic.monitor.settings import GOLD


@dataclass(frozen=True)
class ProbeSample:
    """One sample of a gold task.

    Attributes:
        answer: the answer in its canonical form; None where none can be read.
        signature: what two samples that say the same share; None leaves it out of novelty.
        passed: whether it is right; None where that could not be judged.
        well_formed: whether it has the form that is asked for; None where nothing asks for one.
        logprobs: of its tokens at temperature 1, in nats.
    """

    answer: str | None
    signature: str | None
    passed: bool | None
    well_formed: bool | None
    logprobs: Sequence[float]


def probe_readings(groups: Sequence[Sequence[ProbeSample]]) -> dict[str, Reading | None]:
    """The signals that a probe's own samples give, a group for each task.

    Where most samples could not be judged, those that could are a selection: a policy that breaks
    the verifier must not be measured on the rest.
    """
    judged = [[one.passed for one in group if one.passed is not None] for group in groups]
    if 2 * sum(map(len, judged)) < sum(map(len, groups)):
        judged = []
    judged = [group for group in judged if group]
    written = [[one.signature for one in group if one.signature is not None] for group in groups]
    formed = [[f for one in group if (f := one.well_formed) is not None] for group in groups]
    return {
        "token_entropy": signals.mean_of_fixed([[*_surprises(group)] for group in groups]),
        **signals.answer_entropies([[one.answer for one in group] for group in groups]),
        "distinct_ratio": signals.distinct_ratio(written),
        "effective_groups": signals.effective_groups(judged),
        GOLD: signals.share_of_fixed(judged),
        "gold_form": signals.share_of_fixed(formed),
    }


def _surprises(group: Sequence[ProbeSample]) -> Iterator[float]:
    """Each sample's mean surprise, whose mean is the entropy per token (nats)."""
    for logprobs in (one.logprobs for one in group):
        if logprobs:
            yield -math.fsum(logprobs) / len(logprobs)
