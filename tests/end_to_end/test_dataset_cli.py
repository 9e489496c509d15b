"""`sparring-data generate` on a checkpoint trained for seconds."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dataset_cases import (
    BATCH,
    CONFIG,
    EASY,
    GROUP,
    NUM,
    ROOT,
    SMALL,
    command,
    records,
    refused,
    save,
)
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from data.dataset_folder import SURPLUS, DatasetFolder, cut_surplus
from data.sealed import record_digest
from data.sources import draw_up_to, jsonl_source
from model.configuration import tiny_config
from model.modeling import SparringMoeForCausalLM
from pipelines.dataset import main
from pipelines.errors import UserError
from pipelines.policy.scoring import policy_logprobs
from pipelines.policy.tensors import weights_hash
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.run.origin import Origin, find_origin, load_samplers
from pipelines.settings.load import dump_settings, load_settings

# -- generate -----------------------------------------------------------------------------------


def test_generates_exactly_as_many_records_as_asked(generated: Path, base: Path) -> None:
    loaded = load_dataset("parquet", data_dir=str(generated), split="train")
    assert len(loaded) == NUM
    assert all(loaded["accepted"]) and set(loaded["verdict_outcome"]) == {"correct"}
    assert set(loaded["split"]) == {"train"}
    assert len(set(loaded["signature"])) == NUM
    policy = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert set(loaded["learner_hash"]) == {weights_hash(policy)}
    assert len(load_dataset(str(generated), split="train")) == NUM  # by the card


def test_keeps_every_sample_that_it_drew(generated: Path) -> None:
    progress = DatasetFolder(generated).progress()
    assert progress is not None and progress.status == "complete"
    drawn = records(generated)
    assert len(drawn) == progress.batches * BATCH * GROUP
    assert len({record.id for record in drawn}) == len(drawn)
    per_task = {task: 0 for task in (record.task_id for record in drawn)}
    for record in drawn:
        per_task[record.task_id] += 1
        assert record.sha256 == record_digest(record)
        assert record.accepted == (not record.reject_reason)
    assert set(per_task.values()) == {GROUP}
    reasons = {record.reject_reason for record in drawn}
    assert "duplicate" in reasons  # four solutions of one easy task
    assert any(record.critiques for record in drawn)
    card = (generated / "README.md").read_text()
    assert f"| all | {len(drawn)} | {NUM} |" in card


def test_interrupted_and_resumed_gives_the_same_records(
    generated: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.dataset", *command(base, out)], cwd=ROOT,
        stderr=subprocess.PIPE, text=True,
        # A shell without job control starts children that ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (out / "rejected" / "round_00001.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline, "no second batch"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors and f"--out {out}" in errors.splitlines()[-2]
    assert errors.splitlines()[-2].endswith("--resume")
    stopped = DatasetFolder(out).progress()
    assert stopped is not None and stopped.status == "interrupted"
    assert 0 < stopped.accepted < NUM
    assert len(records(out)) == stopped.batches * BATCH * GROUP
    assert not [path for path in out.rglob("*") if path.name.endswith("-tmp")]
    assert main(command(base, out, "--resume")) == 0
    assert records(out) == records(generated)


def test_resuming_redoes_a_batch_that_a_kill_left_open(
    generated: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    shutil.copytree(generated, out)
    folder = DatasetFolder(out)
    last = folder.progress()
    assert last is not None
    open_batch = last.batches - 1
    shard = out / "train" / f"round_{open_batch:05d}.parquet"
    num_open = sum(record.round == open_batch for record in folder.accepted.records())
    before = replace(
        last, status="open", batches=open_batch, accepted=NUM - num_open,
        rejected=last.rejected - (BATCH * GROUP - num_open),
    )  # fmt: skip
    folder.save(before)
    shard.unlink()  # killed between the two shards
    (out / "rejected" / ".round_00009.parquet.0a1b.sparring-tmp").write_bytes(b"cut off")
    assert main(command(base, out, "--resume")) == 0
    assert records(out) == records(generated)
    assert not list(out.rglob(".*"))


def test_resume_refuses_what_it_cannot_continue(
    generated: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in generated.rglob("*") if path.is_file()}
    assert "not empty" in refused(capsys, command(base, generated))
    line = refused(capsys, command(base, generated, "--resume", "--seed", "1"))
    assert "seed 0 -> 1" in line
    line = refused(capsys, command(base, generated, "--resume", "learner.temperature=0.5"))
    assert "learner.temperature 1.0 -> 0.5" in line
    (tmp_path / "notes.txt").write_text("mine")
    assert "no generation" in refused(capsys, command(base, tmp_path, "--resume"))
    assert main(command(base, generated, "--resume")) == 0  # complete: nothing to do
    assert {path: path.read_bytes() for path in generated.rglob("*") if path.is_file()} == before


def test_a_finished_set_grows(
    generated: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the same records as a set that was asked for as many at once."""
    out = tmp_path / "set"
    assert main(command(base, out, "--num", "19")) == 0
    assert main(command(base, out, "--resume")) == 0
    assert records(out) == records(generated)
    for name in ("batches.jsonl", "held_out.jsonl", "README.md"):
        written, other = (folder / name for folder in (out, generated))
        assert written.read_text().replace("# set", "") == other.read_text().replace("# set", "")
    line = refused(capsys, command(base, out, "--num", "19", "--resume"))
    assert f"holds {NUM} accepted records already" in line
    assert main(["verify", str(out)]) == 0


def test_resume_refuses_missing_shards(
    generated: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    shutil.copytree(generated, out)
    (out / "rejected" / "round_00000.parquet").unlink()
    assert "restore its shards" in refused(capsys, command(base, out, "--resume"))


def test_a_source_that_runs_out_is_an_error_that_keeps_everything(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    more = ["--num", "1000", "--batch", "0", "--no-critic", "rollout.engine=transformers"]
    line = refused(capsys, command(base, out, *more))
    played = {record.task_id for record in records(out)}
    assert f'no more "train" tasks after {len(played)}' in line and "are kept" in line
    assert 60 < len(played) <= 101 and len(records(out)) == len(played) * GROUP
    progress = DatasetFolder(out).progress()
    assert progress is not None and progress.status == "exhausted" and progress.accepted > 0
    assert not any(record.critiques for record in records(out))


def test_a_learner_that_solves_nothing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    model = SparringMoeForCausalLM(tiny_config(len(tokenizer), **SMALL))
    untrained = save(model, tokenizer, tmp_path / "untrained")
    more = ["rollout.engine=transformers", "learner.max_completion_length=4", "--batch", "2"]
    line = refused(capsys, command(untrained, tmp_path / "set", *more))
    assert "none of the last 64 samples was accepted (" in line and "malformed: truncated" in line
    assert len(records(tmp_path / "set")) == 64
    assert main(["verify", str(tmp_path / "set")]) == 0  # truncation is repeated, not forgotten


# -- where FROM leads -----------------------------------------------------------------------------


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A run directory as rl.py leaves it, with two rounds."""
    path = tmp_path / "run"
    for round_ in ("round_00000", "round_00001", "round_00002.partial"):
        for role in ("learner", "critic"):
            shutil.copytree(base, path / "checkpoints" / round_ / role)
    settings = load_settings(CONFIG, [f"run.directory={path}", f"learner.model={base}"])
    (path / "config.json").write_text(dump_settings(settings))
    return path


def test_a_run_is_sampled_at_its_last_or_selected_round(run: Path) -> None:
    origin = find_origin(run, None, ["learner.temperature=0.5"], None, True)
    assert origin.learner == str(run / "checkpoints" / "round_00001" / "learner")
    assert origin.critic == str(run / "checkpoints" / "round_00001" / "critic")
    assert origin.settings.learner.temperature == 0.5
    halted = {"state": "halted", "selected_checkpoint": "elsewhere/checkpoints/round_00000"}
    (run / "status.json").write_text(json.dumps(halted))
    origin = find_origin(run, None, [], None, False)
    assert origin.learner == str(run / "checkpoints" / "round_00000" / "learner")
    assert origin.critic is None


def test_a_run_without_a_round_is_refused(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="has not finished a round"):
        find_origin(run, None, [], None, True)
    with pytest.raises(UserError, match="leave out --config"):
        find_origin(run, CONFIG, [], None, True)


def test_a_lora_checkpoint_is_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                         num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    save(LlamaForCausalLM(config), tokenizer, tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    adapted = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    assert isinstance(adapted, PeftModel)
    save(adapted, tokenizer, tmp_path / "adapter")
    settings = load_settings(CONFIG, [*EASY, "rollout.engine=transformers"])
    origin = Origin(settings, str(tmp_path / "adapter"), None)
    learner, _ = load_samplers(origin, 0, tmp_path / "scratch")
    assert learner.engine.weights.hash == weights_hash(adapted)
    ids = [tokenizer("a47\na47=74")["input_ids"]]
    found, expected = learner.engine.score(ids)[0], policy_logprobs(adapted, ids)[0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_bad_input_is_one_line_and_leaves_nothing(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["<more>"])
    save(SparringMoeForCausalLM(tiny_config(len(tokenizer), **SMALL)), tokenizer, other)
    no_config = ["generate", str(base), "--out", str(out), "--num", "1"]
    cases = {
        "is not a directory": command(tmp_path / "nowhere", out),
        "has no config.json": command(tmp_path / "empty", out),
        "add --config": no_config,
        "leave out --config": command(run, out),
        'did you mean "temperature"': command(base, out, "learner.temprature=1"),
        'unknown split "tran": did you mean "train"': command(base, out, "--split", "tran"),
        "--num must be at least 1": command(base, out, "--num", "0"),
        "exclude each other": command(base, out, "--no-critic", "--critic", str(base)),
        "different vocabularies": command(base, out, "--critic", str(other)),
        "critic: ": command(base, out, "--critic", str(tmp_path / "nowhere")),
        "rollout.max_model_len = 8": command(base, out, "rollout.max_model_len=8"),
        "is a file": command(base, CONFIG),
        "did you mean": command(base, out, "tasks.family=basic_arithmetik"),
    }
    for expected, arguments in cases.items():
        assert expected in refused(capsys, arguments)
        assert not out.exists()


# -- parts ----------------------------------------------------------------------------------------


def test_the_surplus_is_rejected_by_name(generated: Path) -> None:
    good = list(DatasetFolder(generated).accepted.records())[:5]
    kept = cut_surplus(good, 3)
    assert [record.accepted for record in kept] == [True] * 3 + [False] * 2
    assert [record.reject_reason for record in kept[3:]] == [SURPLUS] * 2
    assert all(record.sha256 == record_digest(record) for record in kept)


def test_draw_up_to_takes_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [json.dumps({"question": f"What is {n} + 1?", "answer": n + 1}) for n in range(50)]
    path.write_text("\n".join(rows))
    source = jsonl_source(path)
    everything = draw_up_to(source, "train", 1000, 0)
    assert 30 < len(everything) < 50 and {task.split for task in everything} == {"train"}
    seen = frozenset(task.id for task in everything[:7])
    rest = draw_up_to(source, "train", 1000, 1, seen)
    assert {task.id for task in rest} == {task.id for task in everything[7:]}
    assert draw_up_to(source, "train", 3, 0) == source.draw("train", 3, 0)
