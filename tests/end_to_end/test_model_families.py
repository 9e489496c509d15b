"""Each family of chat models through everything that a user does, at the smallest real size.

Its own architecture under its own template: two steps of each role, whole and with LoRA, in both
engines; then evaluation, sixteen records, and the exported checkpoint read again.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chat_cases import FAMILIES
from family_cases import ARCHITECTURES, taught
from pipeline_cases import CONFIG, SHORT_RUN, rows, status
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.dataset_folder import DatasetFolder
from pipelines.dataset import main as dataset
from pipelines.evaluate import main as evaluate
from pipelines.policy.manifest import checkpoint_manifest
from pipelines.rl import main
from pipelines.settings.load import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# A hundred tasks, which a tiny model learns by heart.
EASY = ("tasks.params.min_terms=2", "tasks.params.max_terms=2", "tasks.params.max_digits=1")
CHAT = (
    *SHORT_RUN, *EASY, "tasks.dialect=free", "run.rounds=1", "learner.steps_per_round=2",
    "critic.steps_per_round=2", "critic.imitation_steps=0", "critic.planted_share=0",
    "learner.max_completion_length=48", "critic.max_completion_length=32",
    "rollout.max_model_len=2600", "evaluate.num_tasks=4", "evaluate.num_probe_tasks=4",
    "evaluate.num_audit_tasks=4", "pointing.reset_share=0", "learner.grpo.learning_rate=1e-3",
    "critic.grpo.learning_rate=1e-3",
)  # fmt: skip
LORA = ("r=4", "lora_alpha=8", 'target_modules=["o_proj", "down_proj"]')
KINDS = {
    "whole": (),
    "lora": tuple(f"{role}.lora.{option}" for role in ("learner", "critic") for option in LORA),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("family") / "base"
            made[family] = taught(family, load_settings(CONFIG, CHAT), folder)
        return made[family]

    return of


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [name for name in ARCHITECTURES if name in FAMILIES])
def test_a_family_trains_is_evaluated_generates_and_is_read_again(
    family: str,
    kind: str,
    engine: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if engine == "vllm":
        pytest.importorskip("vllm")
    base, run = checkpoint(family), tmp_path / "run"
    overrides = [*CHAT, *KINDS[kind], f"rollout.engine={engine}"]
    models = [f"learner.model={base}", f"critic.model={base}"]
    assert main(["--config", str(CONFIG), f"run.directory={run}", *models, *overrides]) == 0
    assert status(run)["state"] == "finished"
    steps = rows(run, "step")
    assert [(row["role"], row["step"]) for row in steps] == [
        ("learner", 1), ("learner", 2), ("critic", 1), ("critic", 2),
    ]  # fmt: skip
    learner = [row for row in steps if row["role"] == "learner"]
    assert all(0 < row["reward/mean"] < 1 for row in learner), "some pass, some do not"
    assert any(row["policy/grad_norm"] > 0 for row in learner)
    (round_,) = rows(run, "round")
    assert round_["critic/parsed"] > 0.5

    (exported,) = (run / "checkpoints").glob("round_*/learner")
    assert checkpoint_manifest(exported) == checkpoint_manifest(base)
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (base, exported))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and (kind == "whole" or all("o_proj" in n or "down_proj" in n for n in moved))
    assert AutoTokenizer.from_pretrained(exported).chat_template == FAMILIES[family].source()

    capfd.readouterr()
    assert evaluate([str(run), "--split", "train", "--num", "6", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    (alone,) = [row for row in report["rows"] if row["method"].startswith("mean@")]
    assert alone["accuracy"]["value"] > 0
    out = tmp_path / "set"
    assert dataset(["generate", str(run), "--out", str(out), "--num", "16", "--group", "4"]) == 0
    accepted = list(DatasetFolder(out).accepted.records())
    assert len(accepted) >= 16 and all("\\boxed{" in record.solution for record in accepted)
