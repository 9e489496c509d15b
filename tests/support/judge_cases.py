"""A judge of the test server, and what it makes of completions."""

from judge_server import JudgeServer
from verifier_cases import answered, task_of

from data.records import Task
from rewards.functions import OwnReward
from rewards.judge import Judge
from rewards.judge_settings import JudgeSettings

TASK = task_of("exact", "12")


def settings_of(server: JudgeServer, **changes: object) -> JudgeSettings:
    given = {"base_url": server.url, "model": "m", "prompt": "{completion}", "timeout_seconds": 20}
    return JudgeSettings.model_validate({**given, **changes})


def scores(
    server: JudgeServer, *texts: str, task: Task = TASK, **changes: object
) -> list[OwnReward]:
    judge = Judge(settings_of(server, **changes))
    return judge.score([(task, answered(text)) for text in texts])
