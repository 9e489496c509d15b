"""A finished run's model on a hub, where `run.push_to` asks for it; never otherwise.

Who asks is known to the hub before training begins, and a push that fails at the end costs nothing
but itself. Uses huggingface_hub's own client, its token and its `HF_ENDPOINT`. Leaves out which
checkpoint is pushed (`run/ending.py`). Imports no torch.
"""

import time
from pathlib import Path

from pipelines.errors import UserError, as_user_error

KEY = "run.push_to"


def check_push(repository: str) -> None:
    """Refuse a push that could not succeed.

    Args:
        repository: `owner/name`.

    Raises:
        UserError: a malformed name, no hub, no token, one that may only read, or one that is not
            the owner's.
    """
    from httpx import HTTPError  # only where somebody asks
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    dotted = f"{KEY} = {repository}"
    with as_user_error(dotted, HFValidationError):
        validate_repo_id(repository)
    owner, slash, _ = repository.partition("/")
    if not slash:
        raise UserError(f"{dotted} is not of the form owner/name")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{dotted}: HF_HUB_OFFLINE forbids it: unset one of them")
    if get_token() is None:
        raise UserError(
            f"{dotted}: there is no token for the hub: log in with `hf auth login`, set HF_TOKEN, "
            f"or remove {KEY}"
        )
    try:
        found = HfApi().whoami()
    except HfHubHTTPError as error:
        raise UserError(f"{dotted}: the hub does not know this token: {_short(error)}") from error
    except (OSError, HTTPError) as error:
        raise UserError(
            f"{dotted}: {constants.ENDPOINT} does not answer: {_short(error)}"
        ) from error
    names = [found["name"], *(group["name"] for group in found.get("orgs", []))]
    if owner not in names:
        raise UserError(f"{dotted}: this token is of {', '.join(names)}: push there, or log in")
    if (found.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"{dotted}: this token may only read: log in with one that may write")


def push(folder: Path, repository: str) -> str:
    """Upload a checkpoint's folder; the repository is made, private, if there is none.

    Returns:
        Where it is, or why it is not and what to type instead; never raises for the hub's sake.
    """
    from huggingface_hub import HfApi

    start = time.perf_counter()
    try:
        api = HfApi()
        url = api.create_repo(repository, private=True, exist_ok=True)
        said = f"the model that training with Sparring left in {folder.name}"
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Add {said}")
    except Exception as error:  # as above: the training is worth more
        return (
            f"not pushed to {repository}: {_short(error)}; by hand: hf upload {repository} {folder}"
        )
    return f"pushed to {url} (private if it is new), {time.perf_counter() - start:.0f} s"


def _short(error: Exception) -> str:
    """An error's first line: the client's hold whole pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
