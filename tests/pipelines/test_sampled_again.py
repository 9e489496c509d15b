"""A record's own fields sample its solution again: nothing else of what was asked is needed."""

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chat_cases import FAMILIES
from family_cases import ARCHITECTURES
from pipeline_cases import CONFIG, random_moe, save

from data.contamination import Contamination
from data.corpus import Corpus
from data.dedup import DuplicateIndex
from data.records import Record
from data.sources import draw_up_to
from pipelines.game.bout import Bout
from pipelines.game.curriculum import build_source
from pipelines.game.gate import Gate
from pipelines.game.referee import Referee, verifiers_of
from pipelines.policy.chat import chat_ids, prompt_text, reply_text, without_end
from pipelines.policy.folder import ModelName, checkpoint_name, name_of, role_name
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.sampler import Sampler
from pipelines.run.origin import Origin, load_samplers
from pipelines.settings.load import load_settings

EASY = (
    "tasks.params.min_terms=2", "tasks.params.max_terms=2", "learner.temperature=0.8",
    "learner.max_completion_length=12", "rollout.max_model_len=400",
)  # fmt: skip
CHAT = (
    *EASY, "rollout.max_model_len=1200", "tasks.dialect=free", "learner.system_prompt=Be brief.",
    'tasks.examples=[{ question = "What is 1 + 1?", reply = "It is \\\\boxed{2}" }]',
    "learner.grpo.chat_template_kwargs={ enable_thinking = false }",
)  # fmt: skip
# The transformers engine draws a batch from one seed: here each sample is a batch.
ENGINES = {"vllm": (), "transformers": ("rollout.max_num_seqs=1",)}


@pytest.fixture(scope="module", params=["characters", "chat"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / f"{request.param}-tiny"
    if request.param == "characters":
        return save(random_moe(character_tokenizer()), folder)
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    ARCHITECTURES["Qwen3"](tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=ENGINES)
def sampled(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Record], Sampler]]:
    """Records as the corpus gives them back, and the sampler that they are of."""
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    overrides = CHAT if checkpoint.name == "chat-tiny" else EASY
    engine = (f"rollout.engine={request.param}", *ENGINES[request.param])
    settings = load_settings(CONFIG, [*overrides, *engine])
    scratch = tmp_path_factory.mktemp("scratch")
    sampler, _ = load_samplers(Origin(settings, str(checkpoint), None), 3, scratch)
    with closing(sampler.engine), closing(verifiers_of(settings.rewards)) as verifiers:
        referee = Referee(settings, verifiers)
        tasks = draw_up_to(build_source(settings), "train", 3, 0)
        drawn = sampler.sample([referee.problem(task) for task in tasks], "batch 0", 2)
        bouts = [
            Bout(task, sample, *referee.read(task, sample), None, None)
            for task, group in zip(tasks, drawn, strict=True)
            for sample in group
        ]
        corpus = Corpus(scratch / "corpus")
        corpus.store(0, Gate(Contamination([]))(bouts, DuplicateIndex(), 0))
        yield corpus.shard(0), sampler


def test_a_record_samples_its_solution_again(sampled: tuple[list[Record], Sampler]) -> None:
    records, sampler = sampled
    tokenizer, engine = sampler.tokenizer, sampler.engine
    assert len({record.solution for record in records}) == len(records) == 6
    for record in records:
        ids = tokenizer(record.rendered, add_special_tokens=False)["input_ids"]
        sampling = Sampling(record.max_new_tokens, record.temperature)
        (done,) = engine.generate([ids], sampling, [record.sampling_seed])
        assert reply_text(tokenizer, without_end(tokenizer, done.token_ids)) == record.solution
        assert (record.learner_hash, record.top_p) == (engine.weights.hash, 1.0)
        assert len(done.token_ids) <= record.max_new_tokens == 12
        (other,) = engine.generate([ids], sampling, [record.sampling_seed + 1])
        assert other.token_ids != done.token_ids, "the seed must matter"


def test_the_prompt_is_there_as_the_policy_was_given_it(
    sampled: tuple[list[Record], Sampler],
) -> None:
    records, sampler = sampled
    for record in records:
        if sampler.tokenizer.chat_template is None:
            assert record.model == "characters-tiny"
            assert re.fullmatch(r"a\d+b\d+\n", record.rendered)  # the dialect's rendering
            continue
        assert (record.model, record.adapter) == ("chat-tiny", "")
        system, example, asked = record.rendered.split("<|im_start|>user\n")
        assert system == "<|im_start|>system\nBe brief.<|im_end|>\n"
        assert "What is 1 + 1?" in example and "It is \\boxed{2}<|im_end|>" in example
        assert record.prompt in asked
        assert asked.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_model_is_called_by_no_path_of_this_machine(tmp_path: Path) -> None:
    assert name_of("owner/name") == "owner/name"
    assert name_of(str(tmp_path / "mine")) == "mine"
    copy = tmp_path / "hub" / "models--owner--some-name" / "snapshots" / "0a1b"
    assert name_of(str(copy)) == "owner/some-name"
    learner = tmp_path / "run" / "checkpoints" / "round_00003" / "learner"
    assert name_of(str(learner)) == "run/round_00003/learner"
    adapter = learner.with_name("learner_adapter")
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "mine")})
    )
    assert checkpoint_name(str(adapter)) == ModelName("mine", "run/round_00003/learner_adapter")
    settings = load_settings(CONFIG, [f"learner.adapter={adapter}", "learner.model=owner/name"])
    assert role_name(settings, "learner", settings.learner) == ModelName(
        "owner/name", "run/round_00003/learner_adapter"
    )
    settings = load_settings(CONFIG, ["critic.lora.r=4", "critic.model=runs/mine"])
    assert role_name(settings, "critic", settings.critic) == ModelName("mine", "critic_adapter")
    assert role_name(settings, "learner", settings.learner).adapter == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rendered_conversation_encodes_to_the_prompt(family: str) -> None:
    tokenizer = FAMILIES[family].tokenizer()
    turns = [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "It is \\boxed{2}."},
        {"role": "user", "content": "  Mu\u00dfe ist 3 \u00d7 4 ,\n\nor so ?"},
    ]
    ids = chat_ids(tokenizer, turns, {})
    assert tokenizer(prompt_text(tokenizer, ids), add_special_tokens=False)["input_ids"] == ids
