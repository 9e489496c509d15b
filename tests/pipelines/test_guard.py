"""Foreign runs of stock TRL trainers, guarded by a plain callback: healthy, broken, rolled back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from foreign_cases import EVERY, NUM_STEPS, RATE, grpo, guard, is_right, rows, sft, unreliable_base
from peft import LoraConfig, get_peft_model
from pipeline_cases import random_llama, redraw_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from critic.monitor.decide import begin
from critic.monitor.readings import NUM_START, Reading, pool
from critic.monitor.replay import replay
from critic.monitor.settings import DEFAULT_RULES, GOLD, MonitorSettings
from pipelines.errors import UserError
from pipelines.guard.callback import EntropyMonitorCallback, guard_settings
from pipelines.guard.gold import GoldProbe, end_ids, reward_reading
from pipelines.guard.weights import clean_checkpoint, put_back, saved_steps
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.report.read import read_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unreliable_base(tmp_path_factory.mktemp("foreign") / "base")


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def loaded(base: Path):  # type: ignore[no-untyped-def]
    return AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)


def gold_accuracy(row: dict) -> float:
    value = row["monitor/signals"][GOLD]
    assert isinstance(value, float)
    return value


def test_a_healthy_sft_run_stays_ok_and_its_log_is_one_of_ours(base: Path, tmp_path: Path) -> None:
    trainer, monitor = sft(base, tmp_path / "out"), guard(tmp_path / "guard")
    trainer.add_callback(monitor)
    trainer.train()
    found = logged(tmp_path / "guard")
    assert {row.get("monitor/state") for row in found[1:]} == {"ok"}
    assert gold_accuracy(found[-1]) > gold_accuracy(found[0]) + 0.15, "it must learn"
    assert [row["step"] for row in found] == [0, *range(EVERY, NUM_STEPS + 1, EVERY)]
    settings = json.loads((tmp_path / "guard" / "monitor.json").read_text())["settings"]
    again = replay(found, MonitorSettings.model_validate(settings))
    assert [health.state for health in again] == [row["monitor/state"] for row in found[1:]]
    assert list(again[0].reasons) == found[1]["monitor/reasons"] == []
    run = read_run(tmp_path / "guard")
    assert len(run.rounds) == NUM_STEPS // EVERY and run.status["state"] == "finished"
    assert (tmp_path / "out" / f"checkpoint-{NUM_STEPS}").is_dir(), "saved at each clean check"


# At 30 times the rate it falls, and on one processor's arithmetic learns again within the run.
@pytest.mark.parametrize("broken", [{"rate": 300 * RATE}, {"shuffled": True}])
def test_a_broken_sft_run_is_halted_and_rolled_back(
    base: Path, tmp_path: Path, broken: dict
) -> None:
    trainer = sft(base, tmp_path / "out", **broken)
    monitor = guard(tmp_path / "guard", restore=True)
    trainer.add_callback(monitor)
    trainer.train()
    found = logged(tmp_path / "guard")
    assert monitor.halted and found[-1]["monitor/state"] == "halt"
    assert trainer.state.global_step == found[-1]["step"] < NUM_STEPS
    assert gold_accuracy(found[-1]) < gold_accuracy(found[0]) - 0.2
    states = [row["monitor/state"] for row in found[1:]]
    assert states == ["halt"] or "warn" in states[:-1], "it is warned of first, or gone at once"
    said = (tmp_path / "guard" / "incident.md").read_text()
    chosen = monitor.selected_checkpoint
    good = tmp_path / "guard" / "start" if chosen is None else chosen
    assert "go back to the model that the run began with" in said or str(chosen) in said
    clean = AutoModelForCausalLM.from_pretrained(good, dtype=torch.float32).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, clean[name], rtol=0, atol=0)


@pytest.mark.parametrize(("rate", "levels"), [(RATE / 2, {"ok"}), (30 * RATE, {"halt"})])
def test_grpo_is_guarded_alike(base: Path, tmp_path: Path, rate: float, levels: set[str]) -> None:
    trainer, monitor = (
        grpo(base, tmp_path / "out", rate, 40),
        guard(tmp_path / "g", reward_span=1.0),
    )
    trainer.add_callback(monitor)
    trainer.train()
    found = logged(tmp_path / "g")
    assert {found[-1]["monitor/state"]} == levels
    read = [row["monitor/signals"]["training_reward"] for row in found[1:]]
    assert all(isinstance(value, float) for value in read), "the logged reward"
    if levels == {"ok"}:
        assert {row["monitor/state"] for row in found[1:]} == {"ok"}
        assert gold_accuracy(found[-1]) > gold_accuracy(found[0]) + 0.1


def test_the_example_of_the_docs_runs(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "use.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (example,) = [text for text in examples if "EntropyMonitorCallback" in text]
    monkeypatch.chdir(tmp_path)
    scope = {"trainer": sft(base, tmp_path / "out"), "gold": rows("gold")}
    exec(example, scope)
    assert scope["guard"].health.state == "ok"  # type: ignore[attr-defined]


def test_the_guard_leaves_the_run_as_it_is(base: Path, tmp_path: Path) -> None:
    """The same losses and weights with and without it: no random number, no mode is changed."""
    ends = []
    for guarded in (False, True):
        trainer = grpo(base, tmp_path / f"out{guarded}", num_steps=2 * EVERY)
        if guarded:
            trainer.add_callback(guard(tmp_path / "guard", saves=False))
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        ends.append((losses, trainer.model.state_dict()))
    assert ends[0][0] == ends[1][0]
    for name, tensor in ends[0][1].items():
        torch.testing.assert_close(tensor, ends[1][1][name], rtol=0, atol=0)


def test_a_resumed_run_goes_on_from_its_log(base: Path, tmp_path: Path) -> None:
    first = sft(base, tmp_path / "out")
    first.add_callback(guard(tmp_path / "guard"))
    first.train()
    whole = logged(tmp_path / "guard")
    again, monitor = sft(base, tmp_path / "out"), guard(tmp_path / "guard")
    again.add_callback(monitor)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{4 * EVERY}"))
    resumed = logged(tmp_path / "guard")
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    assert resumed[:5] == whole[:5], "the rows up to the checkpoint are kept"
    assert monitor.state.num_checks == NUM_STEPS // EVERY
    third = sft(base, tmp_path / "other")
    third.add_callback(guard(tmp_path / "guard"))
    with pytest.raises(UserError, match="is the log of another run"):
        third.train()


class Watcher(TrainerCallback):
    """Notes what a file says after each step."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, list[str]()

    def on_step_end(self, args, state, control, **_: object) -> None:  # type: ignore[no-untyped-def]
        self.seen.append(json.loads(self.path.read_text())["state"])


def test_checks_keep_to_their_share_of_the_time(base: Path, tmp_path: Path) -> None:
    trainer, watcher = sft(base, tmp_path / "out"), Watcher(tmp_path / "guard" / "status.json")
    trainer.add_callback(guard(tmp_path / "guard", max_share=0.001))
    trainer.add_callback(watcher)
    trainer.train()
    assert set(watcher.seen) == {"running"}, "the log's own page says so"
    assert [row["step"] for row in logged(tmp_path / "guard")] == [0, NUM_STEPS]


# -- parts --------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_counted_and_refused_where_it_always_does(
    base: Path, tmp_path: Path
) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )

    def picky(completion: str, row) -> bool:  # type: ignore[no-untyped-def]
        if completion.startswith("9"):
            raise KeyError("nine")
        return is_right(completion, row)

    found = GoldProbe(rows("gold"), picky, max_new_tokens=2, batch_size=256).read(
        model, tokenizer, 0
    )
    assert list(found.faults) == ["KeyError: 'nine'"] and found.readings[GOLD] is not None
    masked = sum(one["right"] is None for one in found.samples)
    assert masked == found.faults.total() > 0
    assert set(found.readings) <= set(DEFAULT_RULES)
    unsure = GoldProbe(rows("gold"), lambda text, row: None, max_new_tokens=2)
    silent = EntropyMonitorCallback(unsure.rows, unsure.check, tmp_path, max_new_tokens=2)
    with pytest.raises(UserError, match="judged: check returned None for each of them"):
        silent._read(model, tokenizer, -1)
    odd = GoldProbe(rows("gold"), lambda text, row: 0.5, max_new_tokens=2)  # type: ignore[arg-type, return-value]
    assert odd.read(model, tokenizer, 0).readings[GOLD] is None
    monitor = EntropyMonitorCallback(odd.rows, odd.check, tmp_path, max_new_tokens=2)
    with pytest.raises(UserError, match=r"no gold sample could be judged: .* returned 0\.5"):
        monitor._read(model, tokenizer, -1)


def test_an_answer_that_cannot_be_read_out_ends_no_run(base: Path, tmp_path: Path) -> None:
    """The user's `answer` may raise like the user's `check`: the sample has no answer then."""
    model, tokenizer = loaded(base)

    def strict(completion: str) -> str:
        raise IndexError("no box")

    probe = GoldProbe(rows("gold"), is_right, strict, max_new_tokens=2, batch_size=256)
    found = probe.read(model, tokenizer, 0)
    assert list(found.faults) == ["answer: IndexError: no box"]
    assert found.readings[GOLD] is not None and found.readings["answer_entropy_within"] is None
    monitor = EntropyMonitorCallback(
        probe.rows, is_right, tmp_path, max_new_tokens=2, answer=strict, batch_size=256
    )
    assert monitor._read(model, tokenizer, -1).readings[GOLD] is not None, "it can be judged"


def test_a_model_that_diverged_is_wrong_in_every_sample(base: Path) -> None:
    """Sampling from it raises, which would end the user's run with a traceback."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    found = GoldProbe(rows("gold"), is_right, max_new_tokens=2).read(model, tokenizer, 0)
    gold = found.readings[GOLD]
    assert gold is not None and gold.value == 0 and found.num_tokens == 0
    assert "not finite" in next(iter(found.faults))


def test_same_weights_read_alike_and_checks_have_samples_of_their_own(base: Path) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    probe = GoldProbe(rows("gold"), is_right, max_new_tokens=2, batch_size=256)
    assert probe.read(model, tokenizer, 1).readings == probe.read(model, tokenizer, 1).readings
    assert probe.read(model, tokenizer, 1).samples != probe.read(model, tokenizer, 2).samples
    assert end_ids(model, tokenizer) == [tokenizer.eos_token_id]
    start, one = probe.read_start(model, tokenizer), probe.read(model, tokenizer, -1)
    found = [probe.read(model, tokenizer, -1 - n).readings[GOLD] for n in range(NUM_START)]
    gold, single = start.readings[GOLD], one.readings[GOLD]
    assert gold is not None and single is not None and len({str(each) for each in found}) > 1
    assert gold == pool(found) and gold.error < 0.6 * single.error, "each has its own samples"
    nll = start.readings["gold_nll"]
    assert nll is not None and nll == one.readings["gold_nll"], "the same texts are read once"


def test_what_may_be_a_fall_is_sampled_again_and_judged_by_that_alone(
    base: Path, tmp_path: Path
) -> None:
    model, tokenizer = loaded(base)
    probe = GoldProbe(rows("gold"), is_right, max_new_tokens=2, batch_size=256)
    asked = list[object]()

    def always(readings: Mapping[str, Reading | None]) -> bool:
        asked.append(readings[GOLD])
        return True

    once, found = probe.read(model, tokenizer, 1), probe.read(model, tokenizer, 1, always, 2)
    assert found.num_reads == 3 and found.num_tokens > 2 * once.num_tokens
    gold, single = found.readings[GOLD], once.readings[GOLD]
    assert asked == [single] == [found.first[GOLD]] and gold is not None and single is not None
    assert gold.value != single.value and gold.error < 0.8 * single.error, "of two readings"
    assert found.readings["gold_nll"] == once.readings["gold_nll"]
    assert found.samples != once.samples, "a person sees what was judged"
    assert (once.num_reads, once.first) == (1, {})
    assert probe.read(model, tokenizer, 1, always, 0).num_reads == 1
    monitor = guard(tmp_path / "guard", max_share=1.0)
    better = {**once.readings, GOLD: Reading(value=single.value + 0.08, error=single.error / 2)}
    monitor.state = begin(better, monitor.settings)
    assert monitor._read(model, tokenizer, 1).num_reads == 1 + monitor.settings.reads_again
    monitor.max_share = 1e-9
    assert monitor._read(model, tokenizer, 1).num_reads == 1, "the budget holds"
    monitor.max_share = 1.0
    monitor.state = begin(once.readings, monitor.settings)
    assert monitor._read(model, tokenizer, 1).num_reads == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"every": 0}, "every must"), ({"max_share": 0.0}, "max_share"), ({"num_samples": 0}, "num_")],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        guard(tmp_path, **options)
    with pytest.raises(UserError, match='needs a "prompt"'):
        GoldProbe([{"prompt": "a"}, {"question": "b"}], is_right)


def test_only_what_a_foreign_run_can_be_asked_is_judged() -> None:
    rules = guard_settings(MonitorSettings(), scores_gold=False, judges_reward=False).active
    assert {rule.channel for rule in rules.values()} == {"N", "E"}
    assert not {"gold_form", "gold_nll", "training_reward"} & set(rules)
    more = guard_settings(MonitorSettings(), scores_gold=True, judges_reward=True)
    assert {"gold_nll", "training_reward"} <= set(more.active) and more.offers == ()


def test_rewards_are_read_in_units_of_a_right_solution() -> None:
    found = reward_reading([4.0, 6.0], span=10.0)
    assert found is not None and (found.value, found.error) == pytest.approx((0.5, 0.1))
    assert reward_reading([0.0, 0.0], span=1.0) == Reading(value=0.0, error=0.0)
    assert reward_reading([1.0, float("nan")], span=1.0) is None


def test_the_clean_checkpoint_is_the_newest_of_this_run_that_is_not_younger(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert clean_checkpoint(tmp_path, [5, 15, 20], 19) == tmp_path / "checkpoint-15"
    assert clean_checkpoint(tmp_path, [5, 25], 30) == tmp_path / "checkpoint-5", "25 is gone"
    assert clean_checkpoint(tmp_path, [20], 15) is None
    assert clean_checkpoint(tmp_path, [5], None) is None
    (tmp_path / "checkpoint-best").mkdir()
    assert saved_steps(tmp_path, 15) == [5, 10, 15], "a resumed run knows those before it"


def test_an_adapter_is_put_back_as_the_trainer_saved_it(tmp_path: Path) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(random_llama(character_tokenizer()), adapter)
    model.save_pretrained(tmp_path)
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    redraw_adapter(model, seed=1)
    assert any(not torch.equal(tensor, clean[name]) for name, tensor in model.state_dict().items())
    put_back(model, tmp_path)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, clean[name], rtol=0, atol=0)
