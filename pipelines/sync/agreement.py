"""Whether a replica agrees with the policy: both score a few sequences, and we compare.

Leaves out when this is checked (`sync/push.py`) and what else is (`sync/proof.py`).
"""

import math
import threading
from collections.abc import Callable, Sequence

from peft import PeftModel
from transformers import PreTrainedModel

from pipelines.errors import UnprovenSyncError
from pipelines.policy.scoring import policy_logprobs
from pipelines.sync.replica import Replica

FP8_ADVICE = (
    '; with rollout.precision = "fp8" the policy must multiply in FP8 (train_in_fp8) or '
    "lie on its grid (snap_to_grid), and on CPU the threshold must leave room for "
    "activations, which only the policy quantises there"
)


class Agreement:
    """The log-probabilities on which a policy and its replicas must agree.

    Args:
        sequences: token ids that both sides score.
        threshold: largest allowed difference of log-probabilities, nats.
        fp8: the replicas hold the weights as FP8 does.

    Attributes:
        difference: the largest that the last check of a replica found, nats.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], threshold: float, fp8: bool) -> None:
        self.sequences, self.threshold, self.fp8 = sequences, threshold, fp8
        self.difference = 0.0
        self._policy: PreTrainedModel | PeftModel | None = None
        self._reference: list[list[float]] = []
        self._lock = threading.Lock()

    def begin(self, policy: PreTrainedModel | PeftModel) -> None:
        """Hold replicas to this policy from here on; it is scored when it is first needed."""
        self._policy, self._reference = policy, []

    def hold(self) -> None:
        """Score the policy now, before it trains on, unless it has been scored."""
        with self._lock:  # replicas are proven side by side
            if not self._reference:
                assert self._policy is not None, "begin() names the policy"
                self._reference = policy_logprobs(self._policy, self.sequences)

    def check(self, replica: Replica, suspects: Callable[[], Sequence[str]]) -> None:
        """Compare a replica's log-probabilities with the policy's.

        Args:
            replica: the one that is checked.
            suspects: names its parameters that may be wrong, where it does not agree.

        Raises:
            UnprovenSyncError: they differ by more than the threshold; names the place that differs
                most.
        """
        self.hold()
        theirs = replica.score(self.sequences)
        difference, sequence, position = largest_difference(self._reference, theirs)
        self.difference = difference
        if not difference <= self.threshold:
            raise UnprovenSyncError(
                f"no agreement on log-probabilities: {replica.label} and policy differ by "
                f"{difference:.3g} nats (rollout.probe_threshold = {self.threshold:g}), most "
                f"at token {position} of sequence {sequence}; suspect "
                f"{', '.join(suspects()) or 'none named'}{FP8_ADVICE if self.fp8 else ''}"
            )


def largest_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, int, int]:
    """Where two sets of log-probabilities differ most: nats, sequence, token position.

    A difference that is not a number counts as infinite: NaN compares as neither larger nor
    smaller, and would pass for agreement.
    """
    return max(
        (math.inf if math.isnan(a - b) else abs(a - b), sequence, position + 1)
        for sequence, (row_a, row_b) in enumerate(zip(ours, theirs, strict=True))
        for position, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    )
