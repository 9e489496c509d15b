"""Whether a replica agrees with the policy: both score a few sequences, and we compare.

What may differ follows from the engine's precision:
  float32   no single log-probability by more than a thousandth of a nat;
  bfloat16  the mean by no more than a few times what bfloat16 costs the policy itself. Rounding
            sends single tokens of a mixture of experts elsewhere, by nats, so that no bound on the
            largest difference tells a right engine from a wrong one; the mean does.

Either way the policy computes in float32 for this, whatever its pass in training does. Leaves out
when this is checked (`sync/push.py`) and what else is (`sync/proof.py`).
"""

import math
import threading
from collections.abc import Callable, Sequence

from peft import PeftModel
from transformers import PreTrainedModel

from pipelines.errors import UnprovenSyncError
from pipelines.policy.scoring import policy_logprobs
from pipelines.sync.replica import Replica

EXACT_THRESHOLD = 1e-3  # nats, where the engine computes in float32
# In bfloat16: times the policy's own mean cost of rounding. Right engines were within 1.7 of it,
# wrong ones beyond 3.8 (docs/design.md, weight sync).
ROUNDED_RATIO = 2.5
FP8_ADVICE = (
    '; with rollout.precision = "fp8" the policy must multiply in FP8 (train_in_fp8) or '
    "lie on its grid (snap_to_grid), and on CPU the threshold must leave room for "
    "activations, which only the policy quantises there"
)
Scores = Sequence[Sequence[float]]


class Agreement:
    """The log-probabilities on which a policy and its replicas must agree.

    Args:
        sequences: token ids that both sides score.
        threshold: the largest allowed difference, nats: of one log-probability, or with `rounds`
            of their mean; None takes the one of the module's docstring.
        rounds: the replicas compute in less than float32.
        fp8: the replicas hold the weights as FP8 does, and the policy multiplies so.

    Attributes:
        difference: what the last check of a replica found, nats; the largest, or the mean.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        threshold: float | None,
        rounds: bool = False,
        fp8: bool = False,
    ) -> None:
        self.sequences, self._given, self.fp8 = sequences, threshold, fp8
        self.rounds = rounds and not fp8
        self.difference = 0.0
        self._policy: PreTrainedModel | PeftModel | None = None
        self._reference: list[list[float]] = []
        self._rounding = 0.0  # what bfloat16 costs the policy itself, mean nats
        self._lock = threading.Lock()

    @property
    def threshold(self) -> float:
        """The largest difference that is allowed now, nats."""
        if self._given is not None:
            return self._given
        return max(EXACT_THRESHOLD, ROUNDED_RATIO * self._rounding)

    def begin(self, policy: PreTrainedModel | PeftModel) -> None:
        """Hold replicas to this policy from here on; it is scored when it is first needed."""
        self._policy, self._reference = policy, []

    def hold(self) -> None:
        """Score the policy now, before it trains on, unless it has been scored."""
        with self._lock:  # replicas are proven side by side
            if self._reference:
                return
            assert self._policy is not None, "begin() names the policy"
            precision = "own" if self.fp8 else "float32"
            self._reference = policy_logprobs(self._policy, self.sequences, precision)
            if self.rounds and self._given is None:
                rounded = policy_logprobs(self._policy, self.sequences, "bfloat16")
                self._rounding = mean_difference(self._reference, rounded)

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
        largest, sequence, position = largest_difference(self._reference, theirs)
        mean = mean_difference(self._reference, theirs)
        self.difference = mean if self.rounds else largest
        if not self.difference <= self.threshold:
            what = "on average" if self.rounds else "at one token"
            raise UnprovenSyncError(
                f"no agreement on log-probabilities: {replica.label} and policy differ by "
                f"{self.difference:.3g} nats {what} where {self.threshold:.3g} are allowed "
                f"({self._origin()}), most at token {position} of sequence {sequence}, by "
                f"{largest:.3g}; suspect {', '.join(suspects()) or 'none named'}"
                f"{FP8_ADVICE if self.fp8 else ''}"
            )

    def _origin(self) -> str:
        if self._given is not None:
            return "rollout.probe_threshold"
        if self.rounds:
            return (
                f"{ROUNDED_RATIO:g} times what bfloat16 costs the policy itself; "
                "rollout.probe_threshold sets another limit"
            )
        return "float32's; rollout.probe_threshold sets another limit"


def largest_difference(ours: Scores, theirs: Scores) -> tuple[float, int, int]:
    """Where two sets of log-probabilities differ most: nats, sequence, token position.

    A difference that is not a number counts as infinite: NaN compares as neither larger nor
    smaller, and would pass for agreement.
    """
    return max(
        (math.inf if math.isnan(a - b) else abs(a - b), sequence, position + 1)
        for sequence, (row_a, row_b) in enumerate(zip(ours, theirs, strict=True))
        for position, (a, b) in enumerate(zip(row_a, row_b, strict=True))
    )


def mean_difference(ours: Scores, theirs: Scores) -> float:
    """How far two sets of log-probabilities are apart on average, nats; NaN where one is."""
    apart = [
        abs(a - b)
        for row_a, row_b in zip(ours, theirs, strict=True)
        for a, b in zip(row_a, row_b, strict=True)
    ]
    return math.fsum(apart) / len(apart)
