"""Confirms pointings by counterfactual: continuations from before a step, and from after it.

Where no code can check a step, its fatality still shows: of the continuations from before it some
that take another step pass, and none that take this one. The attempts of a group are continuations
of each other's beginnings and cost nothing; the rest is sampled, `look` of them at a time, first
from before the step (most claims end there), within a budget of tokens. Claims are tried in a
random order that prefers those that are cheap and likely to show a success. Leaves out the
statistics (`critic/value_drop.py`) and confirmation by code (`game/pointing.py`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from critic.value_drop import NOTHING, Decision, Tally, decide, expected_value
from pipelines.game.bout import Pointing
from pipelines.game.pointing import Attempt, pass_rate
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt, Respondent
from rewards.solution import Solution
from rewards.verdict import Verdict

LOOKS = 3
LEAST_HOPE = 0.03  # the chance to pass below which a look would hardly ever show a success


@dataclass
class Claim:
    """A step that somebody called the first flaw, and the evidence so far.

    Attributes:
        places: of the attempts in their batch that it was said of.
        others: continuations that took another step there.
        same: continuations that took this step, by choice or because they began after it.
        before: all that began before the step and took what they chose, the attempts included
            that the claim is about.
        right_step: a step that stood there in a continuation that passed.
    """

    attempt: Attempt
    index: int
    places: list[int]
    others: Tally = NOTHING
    same: Tally = NOTHING
    before: Tally = NOTHING
    right_step: str | None = None
    decision: Decision = "unknown"

    def see(self, solution: Solution, verdict: Verdict, began_before: bool = True) -> None:
        """Count a continuation on the side of the step that it took."""
        if not verdict.counted:
            return
        seen = Tally(int(verdict.passed), 1)
        self.before += seen if began_before else NOTHING
        step = solution.steps[self.index].text if len(solution.steps) > self.index else None
        if step == self.attempt.solution.steps[self.index].text:
            self.same += seen
            return
        self.others += seen
        if verdict.passed and self.right_step is None:
            self.right_step = step

    @property
    def cost(self) -> float:
        """Tokens of one continuation from before the step, about."""
        length = max(1, len(self.attempt.solution.text) - len(self.attempt.prefix))
        remaining = (1 - self.share_done) * len(self.attempt.solution.text)
        return max(1.0, self.attempt.num_tokens * remaining / length)

    @property
    def share_done(self) -> float:
        """Of the solution's characters, those before the step."""
        return len(self.attempt.before(self.index)) / len(self.attempt.solution.text)


class Confirmation:
    """Tests claims about attempts by the learner's own continuations.

    Args:
        referee: verifies continuations.
        learner: continues.
        rng: orders the claims.

    Attributes:
        num_tokens: sampled so far.
        num_tested: claims that were tested so far.
    """

    def __init__(self, referee: Referee, learner: Respondent, rng: random.Random) -> None:
        self.referee, self.learner, self.rng = referee, learner, rng
        self.table = referee.settings.pointing
        self.num_tokens = self.num_tested = 0

    def confirm(
        self,
        attempts: Sequence[Attempt],
        pointings: Sequence[Pointing | None],
        purpose: str,
        budget: float,
    ) -> list[Pointing | None]:
        """Test the pointings that are still unknown, as far as the budget goes.

        Args:
            attempts: of one batch.
            pointings: one for each.
            purpose: names the batch in the seeds.
            budget: the most tokens, as a multiple of the attempts' own.
        """
        claims = [c for c in claims_of(attempts, pointings) if self._has_room(c)]
        for claim in claims:
            add_siblings(claim, attempts)
        budget *= sum(attempt.num_tokens for attempt in attempts)
        rate = pass_rate([attempt.verdict for attempt in attempts if not attempt.prefix])
        for look in range(LOOKS):
            tested = self._affordable(_undecided(claims, look), budget, rate)
            spent = self.num_tokens
            self._sample(tested, f"{purpose}/look {look}/before", before=True)
            hopeful = [claim for claim in tested if claim.others.passed]
            self._sample(hopeful, f"{purpose}/look {look}/after", before=False)
            for claim in tested:
                claim.decision = decide(claim.others, claim.same, look == LOOKS - 1)
            budget -= self.num_tokens - spent
            self.num_tested += len(tested) if look == 0 else 0
        return with_decisions(pointings, claims)

    def _has_room(self, claim: Claim) -> bool:
        prompt = self.referee.problem(claim.attempt.task, claim.attempt.after(claim.index))
        return self.referee.leaves_room(self.learner.prompt_length(prompt))

    def _affordable(self, claims: Sequence[Claim], budget: float, rate: float) -> list[Claim]:
        """As many claims as the budget holds, in a random order that prefers likely successes."""

        def rank(claim: Claim) -> float:
            return self.rng.random() ** (claim.cost / expected_value(rate, claim.share_done))

        hopeful = [
            claim for claim in claims
            if claim.others.passed or expected_value(rate, claim.share_done) >= LEAST_HOPE
        ]  # fmt: skip
        order = sorted(hopeful, key=rank, reverse=True)
        chosen = []
        for claim in order:
            budget -= 2 * self.table.look * claim.cost  # from before the step, and from after it
            if budget < 0:
                break
            chosen.append(claim)
        return chosen

    def _sample(self, claims: Sequence[Claim], purpose: str, before: bool) -> None:
        """Add one look's continuations to each claim's evidence."""
        starts = [c.attempt.before(c.index) if before else c.attempt.after(c.index) for c in claims]
        prompts: list[Prompt] = [
            self.referee.problem(claim.attempt.task, start)
            for claim, start in zip(claims, starts, strict=True)
        ]
        drawn = self.learner.sample(prompts, purpose, self.table.look)
        begun = zip(claims, starts, drawn, strict=True)
        flat = [(claim, start, sample) for claim, start, samples in begun for sample in samples]
        self.num_tokens += sum(len(sample.token_ids) for _, _, sample in flat)
        read = self.referee.read_all([(c.attempt.task, sample, start) for c, start, sample in flat])
        for (claim, _, _), judged in zip(flat, read, strict=True):
            claim.see(*judged, before)


def claims_of(attempts: Sequence[Attempt], pointings: Sequence[Pointing | None]) -> list[Claim]:
    """The unknown pointings, those at the same step after the same beginning as one claim."""
    claims: dict[tuple[str, str], Claim] = {}
    for place, (attempt, pointing) in enumerate(zip(attempts, pointings, strict=True)):
        if pointing is None or pointing.status != "unknown":
            continue
        key = (attempt.task.id, attempt.after(pointing.index))
        claim = claims.setdefault(key, Claim(attempt, pointing.index, []))
        claim.places.append(place)
    return list(claims.values())


def add_siblings(claim: Claim, attempts: Sequence[Attempt]) -> None:
    """Count the group's other attempts that came to the step by the same way.

    Those that the claim is about are no evidence for it, since they were chosen because they
    failed; of how often the place leads to success they are.
    """
    claim.before += Tally(0, len(claim.places))
    way = _texts(claim.attempt)[: claim.index]
    for place, other in enumerate(attempts):
        is_sibling = place not in claim.places and other.group == claim.attempt.group
        if is_sibling and _texts(other)[: claim.index] == way:
            claim.see(other.solution, other.verdict)


def with_decisions(
    pointings: Sequence[Pointing | None], claims: Sequence[Claim]
) -> list[Pointing | None]:
    """The pointings with what was found about them."""
    found = list(pointings)
    for claim in claims:
        for place in claim.places:
            pointing = found[place]
            assert pointing is not None, "claims are made of pointings"
            found[place] = replace(
                pointing,
                status=claim.decision,
                value_before=claim.before.value,
                right_step=claim.right_step,
            )
    return found


def _undecided(claims: Sequence[Claim], look: int) -> list[Claim]:
    """Those worth a look: all at first, then those that may still be confirmed."""
    if look == 0:
        return list(claims)
    return [claim for claim in claims if claim.decision == "unknown" and claim.others.passed]


def _texts(attempt: Attempt) -> list[str]:
    return [step.text for step in attempt.solution.steps]
