"""The cold start: demonstrations of both formats, and TRL's SFTTrainer on them.

Demonstrations are procedural and carry slips on purpose (`sft.slip_rate`), as any text that people
wrote does: the base imitates an unreliable solver, and RL has something to learn. TRL's SFTTrainer
takes them in their order, easy ones first (`sft.easy`); the loss is on completions only. Launched
by Accelerate, several processes share each step: `per_device_train_batch_size` demonstrations each,
or in all with `accelerator_config.split_batches`.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from data.atomic import atomic_folder
from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.errors import UserError, as_user_error
from pipelines.game.demonstrations import Row, demonstrations
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.process import on_cpu
from pipelines.run.progress import Progress
from pipelines.run.trainer_options import REFUSALS, trainer_options
from pipelines.settings.library import SFT, check_library_table, types_of
from pipelines.settings.load import dump_settings
from pipelines.settings.tables import Settings
from pipelines.training.moe_losses import add_auxiliary_losses


def cold_start(settings: Settings, progress: Progress | None = None) -> Path:
    """Train the base and save it; a finished checkpoint of the same settings is kept.

    Args:
        settings: the run's.
        progress: is told what goes on.

    Raises:
        UserError: there is no `[sft]` table, or the dialect has no demonstrations.
    """
    if settings.sft is None:
        raise UserError("there is no [sft] table in the configuration: nothing to cold-start")
    check_library_table("sft.trainer", settings.sft.trainer, SFT, types_of(SFTConfig))
    target = settings.sft.directory
    fingerprint = json.dumps(
        json.loads(dump_settings(settings))["sft"]
        | {"tasks": settings.tasks.model_dump(mode="json"), "seed": settings.run.seed},
        sort_keys=True,
    )
    stamp = target / "cold_start.json"
    processes = PartialState(cpu=on_cpu())
    if stamp.exists() and stamp.read_text() == fingerprint:
        if processes.is_main_process:
            print(f"cold start: {target} is up to date")
        return target
    if target.is_file() or (target.exists() and any(target.iterdir()) and not stamp.exists()):
        raise UserError(
            f"sft.directory = {target} holds something that is not a cold start: give another one"
        )
    options = _options(settings)
    start = time.perf_counter()
    set_seed(settings.run.seed)
    progress = progress or Progress()
    progress.begin("writing the demonstrations")
    tokenizer = character_tokenizer()
    rows = _that_fit(demonstrations(settings), tokenizer, options.max_length, processes)
    with as_user_error("sft.model", ValueError, TypeError):
        config = tiny_config(len(tokenizer), **_token_ids(tokenizer), **settings.sft.model)
    trainer = _trainer(options, SparringMoeForCausalLM(config), tokenizer, rows)
    trainer.add_callback(_Threads(settings.sft.threads))
    trainer.add_callback(_Heard(progress))
    progress.now("training the cold start")
    trainer.train()
    progress.now("saving the cold start")
    _save(trainer, tokenizer, target, fingerprint, processes)
    loss = trainer.state.log_history[-1].get("train_loss", float("nan"))
    if processes.is_main_process:
        print(
            f"cold start: {trainer.state.global_step} steps, loss {loss:.3f}, "
            f"{time.perf_counter() - start:.0f} s"
        )
    return target


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }


def _that_fit(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    processes: PartialState,
) -> list[Row]:
    """The demonstrations that TRL would not cut off, and an end token after each.

    Raises:
        UserError: every one is too long.
    """
    whole = [row["prompt"] + row["completion"] for row in rows]
    lengths = [len(ids) + 1 for ids in tokenizer(whole)["input_ids"]]
    limit = max(lengths) if max_length is None else max_length
    fitting = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    if not fitting:
        raise UserError(
            f"sft.trainer.max_length = {limit} holds no demonstration: raise it to at least "
            f"{max(lengths)}"
        )
    if len(fitting) < len(rows) and processes.is_main_process:
        print(
            f"cold start: {len(rows) - len(fitting)} of {len(rows)} demonstrations are too long "
            f"and left out: the longest has {max(lengths)} tokens, sft.trainer.max_length = {limit}"
        )
    return fitting


def _options(settings: Settings) -> SFTConfig:
    assert settings.sft is not None, "cold_start refuses this"
    owned = {
        "output_dir": str(settings.sft.directory) + ".work",
        "save_strategy": "no",
        "report_to": "none",
        "seed": settings.run.seed,
        "use_cpu": on_cpu(),
    }
    table = {"logging_steps": 20, "train_sampling_strategy": "sequential"} | settings.sft.trainer
    return trainer_options("sft.trainer", SFTConfig, table, owned)


def _trainer(options: SFTConfig, model, tokenizer, rows) -> SFTTrainer:  # type: ignore[no-untyped-def]
    with as_user_error("sft.trainer", *REFUSALS):
        trainer = ColdStartTrainer(
            model=model,
            args=options,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress())
    return trainer


class ColdStartTrainer(SFTTrainer):
    """TRL's, with the balance and multi-token losses of a model whose config has them."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        given = (model, inputs, return_outputs, num_items_in_batch)
        return add_auxiliary_losses(self, super().compute_loss, *given)


class _Threads(TrainerCallback):
    """Lets PyTorch compute with `num` CPU threads while it trains; 0 leaves the choice to others.

    Accelerate sets a number of its own until the training begins.
    """

    def __init__(self, num: int) -> None:
        self.num = self.before = num

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.num or self.before)

    def on_train_end(self, *_: object, **__: object) -> None:
        torch.set_num_threads(self.before)


class _Heard(TrainerCallback):
    """Says to whoever watches for silence that the bar has moved."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_log(self, *_: object, **__: object) -> None:
        self.progress.heard()


class _Progress(TrainerCallback):
    """A bar with the current loss, in place of a dictionary per step."""

    def on_train_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.bar = tqdm(
            total=state.max_steps, desc="cold start", disable=not state.is_world_process_zero
        )

    def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.bar.close()


def _save(
    trainer: SFTTrainer,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    fingerprint: str,
    processes: PartialState,
) -> None:
    is_main, barrier = processes.is_main_process, processes.wait_for_everyone
    with atomic_folder(target, owner=is_main, barrier=barrier) as partial:
        if is_main:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / "cold_start.json").write_text(fingerprint)
    if is_main:
        shutil.rmtree(str(target) + ".work", ignore_errors=True)
