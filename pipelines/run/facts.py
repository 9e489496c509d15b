"""Facts of a round that its roles' trainers and samplers hold, for its row of the metrics.

Leaves out what the round's examination found (`run/round_log.py`).
"""

from typing import TypeVar

from accelerate.utils import gather_object

from pipelines.policy.tensors import weights_hash
from pipelines.run.build import Roles
from pipelines.training.trainer import RoleTrainer

T = TypeVar("T")


def agreed(own: T) -> T:
    """Rank 0's value in every process, given one's own."""
    first: T = gather_object([own])[0]
    return first


def agreed_weights(roles: Roles) -> dict[str, object]:
    """Both policies' weights hashes, one per process; they must be equal on all of them.

    Raises:
        RuntimeError: they are not.
    """
    facts: dict[str, object] = {}
    for prefix, role in (("policy", roles.learner), ("critic", roles.critic)):
        hashes = gather_object([weights_hash(role.policy)])
        if len(set(hashes)) > 1:
            raise RuntimeError(f"processes hold different {role.name} weights: {hashes}")
        facts |= {"run/world_size": len(hashes), f"{prefix}/weights_hash": hashes}
    return facts


def take_learner_facts(learner: RoleTrainer) -> dict[str, object]:
    """The load of the learner's experts since the last call, and how far its engine is off."""
    facts: dict[str, object] = {}
    load = learner.expert_load.take()
    if load:
        facts["moe/load"] = [load_E.tolist() for load_E in load.values()]
    if learner.sampler.sync is not None:
        facts["rollout/probe_difference"] = learner.sampler.sync.agreement_difference
    return facts
