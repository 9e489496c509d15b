"""What an evaluation asks of a sampler: to go on from the start of a solution, and to be greedy."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from critic_cases import RIGHT, chain_task
from pipeline_cases import CONFIG, learner_role, random_moe, save
from transformers import PreTrainedTokenizerBase

from pipelines.game.referee import Referee
from pipelines.policy.chat import chat_ids
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.engine import Sampling
from pipelines.rollouts.sampler import Sampler
from pipelines.settings.load import load_settings
from pipelines.training.trainer import RoleTrainer
from rewards.verifiers import Verifiers

# A reply is opened by more than its header, and a past one is trimmed, as in Qwen3's template.
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not thinks %}[]{% endif %}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TASK = chain_task([4, 1, 7, 10])
REPLY = "\n<think>\n1. 4 + 1 = 5\n"
EXAMPLE = 'tasks.examples=[{question="Calculate 2 + 3.", reply="<answer>5</answer>"}]'


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    checkpoint = save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("prefix") / "moe")
    batch = {"per_device_train_batch_size": 4, "num_generations": 4}
    return learner_role(RoleTrainer, checkpoint, **batch).sampler


@pytest.fixture(params=["chain", "tagged"])
def referee(request: pytest.FixtureRequest) -> Iterator[Referee]:
    more = [EXAMPLE] if request.param == "tagged" else []
    with closing(Verifiers()) as verifiers:
        overrides = [f"tasks.dialect={request.param}", *more]
        yield Referee(load_settings(CONFIG, overrides), verifiers)


def test_prompt_and_prefix_have_the_token_ids_of_their_text(
    sampler: Sampler, referee: Referee
) -> None:
    sampler.tokenizer.chat_template = CHAT
    prefix = RIGHT.text[:12] if referee.dialect.name == "chain" else REPLY
    (bare,) = sampler.tokenize([referee.problem(TASK)])
    (begun,) = sampler.tokenize([referee.problem(TASK, prefix)])
    assert begun == bare + sampler.tokenize_replies([prefix])[0]
    assert sampler.tokenizer.decode(begun) == sampler.tokenizer.decode(bare) + prefix
    assert sampler.tokenize([referee.problem(TASK, "")]) == [bare]


@pytest.mark.parametrize("prefix", ["1. 4 + 1 = 5", "\n<think>\n", "ends with a space "])
def test_a_begun_reply_is_the_templates_own_where_that_keeps_the_text(prefix: str) -> None:
    tokenizer: PreTrainedTokenizerBase = character_tokenizer()
    tokenizer.chat_template = PLAIN
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": prefix}]
    continued = tokenizer.apply_chat_template(
        turns, continue_final_message=True, tokenize=True, return_dict=True
    )
    assert chat_ids(tokenizer, turns, {}) == continued["input_ids"]
    tokenizer.chat_template = CHAT
    opened = "<user>1+1<end><assistant>"
    assert tokenizer.decode(chat_ids(tokenizer, turns, {"thinks": False})) == opened + "[]" + prefix
    assert tokenizer.decode(chat_ids(tokenizer, turns, {"thinks": True})) == opened + prefix


def test_temperature_0_takes_the_likeliest_token(sampler: Sampler) -> None:
    prompts = ["a4b1\n", "a7b9c2\n"]
    first = sampler.sample(prompts, "one", temperature=0.0)
    again = sampler.sample(prompts, "another", temperature=0.0)
    texts = [[s.token_ids for (s,) in drawn] for drawn in (first, again)]
    assert texts[0] == texts[1]
    assert len({s.text for s, *_ in sampler.sample(["a4b1\n"] * 8, "sampled")}) > 1
    for prompt, (sample,) in zip(sampler.tokenize(prompts), first, strict=True):
        for place, token in enumerate(sample.token_ids):
            so_far = [*prompt, *sample.token_ids[:place]]
            (done,) = sampler.engine.generate([so_far], Sampling(1, 0.0), [0])
            assert done.token_ids[0] == token
    (scored,) = sampler.engine.score([[*sampler.tokenize(prompts)[0], *first[0][0].token_ids]])
    assert scored[len(prompts[0]) - 1 :] == pytest.approx(first[0][0].logprobs, abs=1e-4)
