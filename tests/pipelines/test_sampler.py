"""A sampler's prompts are the trainer's, whatever the chat template is given."""

from pathlib import Path

import pytest
from pipeline_cases import learner_role, random_moe, save

from pipelines.errors import UserError
from pipelines.policy.tokenizer import character_tokenizer
from pipelines.training.trainer import RoleTrainer

BATCH = {"per_device_train_batch_size": 4, "num_generations": 4}
TEMPLATE = "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% else %}={% endif %}"
CHAT = [{"role": "user", "content": "1+1"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_moe(character_tokenizer()), tmp_path_factory.mktemp("sampler") / "moe")


@pytest.mark.parametrize("thinks", [True, False])
def test_every_prompt_is_rendered_as_in_training(checkpoint: Path, thinks: bool) -> None:
    options = {"chat_template_kwargs": {"enable_thinking": thinks}}
    role = learner_role(RoleTrainer, checkpoint, **BATCH, **options)
    role.sampler.tokenizer.chat_template = TEMPLATE
    ours = role.sampler.tokenize([CHAT])
    assert ours == role._tokenize_prompts([CHAT])[0]
    assert role.sampler.tokenizer.decode(ours[0]) == ("1+1<think>" if thinks else "1+1=")
    assert role.sampler.tokenize(["a4b1\n"]) == role._tokenize_prompts(["a4b1\n"])[0]


def test_a_conversation_without_a_template_is_the_users_mistake(checkpoint: Path) -> None:
    role = learner_role(RoleTrainer, checkpoint, **BATCH)
    with pytest.raises(UserError, match="cannot be prompted with a conversation"):
        role.sampler.tokenize([CHAT])
