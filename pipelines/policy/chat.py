"""A conversation as token ids, a completion as text, and the tokens that end one.

A template is shown marks in place of the texts, which are put in afterwards. So it cannot cut the
thinking out of a worked example, nor take data for the reply of a tool, and a control token that
somebody spells in a text stays text. Leaves out who says what (`game/referee.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipelines.errors import UserError, as_user_error
from pipelines.policy.moe import Policy
from rewards.thinking import CLOSED, OPENED, TAGS

Turns = Sequence[Mapping[str, str]]

# Of the private use area: no template writes them, and none trims them.
_MARK = re.compile("\ue000([0-9]+)\ue001")
# What a template writes before a past reply that has no thinking of its own.
_BRACKETED = re.compile(r"<\S+>|\[\S+\]")  # a token of tools, of a role, of a place in the text
_OWN_THINKING = re.compile(rf"(?:{OPENED.pattern})\s*(?:(?:{CLOSED.pattern})\s*)?\Z")


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, template: Mapping[str, object]
) -> list[int]:
    """Token ids of a conversation as the tokenizer's model is prompted with it.

    A last turn of the assistant is the start of the reply: its text follows the generation prompt,
    as the model wrote it. The template's own `continue_final_message` would not do, since a
    template may trim the text, and may open a reply otherwise than it shows a past one.

    Args:
        tokenizer: has a chat template.
        turns: tables of "role" and "content".
        template: further arguments of the chat template, such as `enable_thinking`.

    Raises:
        UserError: there is no chat template, or it refuses the conversation, or leaves out a turn,
            or what the system says is a switch to it.
    """
    begun = turns[-1]["content"] if turns[-1]["role"] == "assistant" else ""
    asked = turns[:-1] if begun else turns
    if asked[0]["role"] == "system":
        _check_system(tokenizer, asked[0]["content"], json.dumps(template, default=str))
    frame = _rendered(tokenizer, asked, template)
    texts = [turn["content"].strip() for turn in asked]
    seen = {int(mark[1]) for mark in _MARK.finditer(frame)}
    for number, text in enumerate(texts):
        if text and number not in seen:
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template leaves out what the "
                f"{asked[number]['role']} says: remove that, or give the tokenizer another template"
            )
    return _ids(tokenizer, frame, texts, begun)


@lru_cache(maxsize=16)
def _check_system(tokenizer: PreTrainedTokenizerBase, text: str, template: str) -> None:
    """Refuse a system prompt that the template reads, as SmolLM3's reads /no_think: it sees a mark.

    Args:
        template: further arguments of the chat template, as JSON.
    """
    turns = [{"role": "system", "content": text}, {"role": "user", "content": "?"}]
    given = json.loads(template)
    frame = _rendered(tokenizer, turns, given)
    meant = frame.replace(_mark(0), text.strip()).replace(_mark(1), "?")
    with as_user_error(f"{tokenizer.name_or_path}: system_prompt", ValueError, TemplateError):
        found = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, **given
        )
    if found != meant:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template reads or changes the system prompt "
            f"{text.strip()!r:.80}: set what it switches in chat_template_kwargs, such as "
            "enable_thinking, and leave it out of system_prompt"
        )


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which control tokens are text."""
    return _ids(tokenizer, "", (), text)


def without_end(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Sequence[int]:
    """A completion without the control token that ends it, special or not."""
    last = tokenizer.convert_ids_to_tokens(ids[-1]) if ids else None
    ends = last in _added_tokens(tokenizer) and last not in TAGS
    return ids[:-1] if ends else ids


def reply_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A completion as text: without special tokens, but with the tags of thinking."""
    hidden = _hidden_ids(tokenizer)
    if hidden is None:
        return tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode([i for i in ids if i not in hidden], skip_special_tokens=False)


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A prompt as text, special tokens included; encoded without further ones it is the prompt.

    But where a text spells a control token, which was cut in two, and where the tokenizer puts a
    space before every text.
    """
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def declare_ends(policy: Policy, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a reply: the tokenizer's, the checkpoint's, the chat template's.

    The policy's generation settings name them all from here on, so that TRL counts a reply that
    ends with any of them as complete, and a saved policy is served alike elsewhere.
    """
    declared = policy.generation_config.eos_token_id
    named = [declared] if isinstance(declared, int) else list(declared or ())
    found = (tokenizer.eos_token_id, turn_end_id(tokenizer), *named)
    ends = list(dict.fromkeys(int(i) for i in found if i is not None))
    policy.generation_config.eos_token_id = ends
    return tuple(ends)


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after what the assistant said; None without one."""
    _, _, after = _sample_frame(tokenizer, ("user", "assistant", "user")).partition(_mark(1))
    for token in _added_tokens(tokenizer):  # the longest first
        if after.lstrip().startswith(token):
            return tokenizer.convert_tokens_to_ids(token)
    return None


def _sample_frame(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> str:
    """What the template writes around turns of these roles; nothing where it refuses them."""
    if not tokenizer.chat_template:
        return ""
    try:
        return _rendered(tokenizer, [{"role": role, "content": role} for role in roles], {})
    except UserError:  # said where it is needed
        return ""


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, template: Mapping[str, object]
) -> str:
    """The conversation with a mark for each text, whose own spaces are the template's to trim."""
    marked = []
    for number, turn in enumerate(turns):
        text = turn["content"]
        before, _, after = text.partition(text.strip()) if text.strip() else (text, "", "")
        shown = before + _mark(number) + after if text.strip() else text
        marked.append({**turn, "content": shown})
    what = f"{tokenizer.name_or_path} cannot be prompted with a conversation"
    with as_user_error(what, ValueError, TypeError, TemplateError):
        frame = tokenizer.apply_chat_template(
            marked, add_generation_prompt=True, tokenize=False, **template
        )
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant" and OPENED.match(turn["content"].strip()):
            before, mark, after = frame.partition(_mark(number))
            frame = _OWN_THINKING.sub("", before) + mark + after
    return frame


def _ids(
    tokenizer: PreTrainedTokenizerBase, frame: str, texts: Sequence[str], begun: str
) -> list[int]:
    """Token ids of a frame with its texts; a control token that a text spells is cut in two.

    Everything else is tokenised in one piece, as its model expects it.
    """
    pieces, place = [""], 0
    for mark in _MARK.finditer(frame):
        pieces[-1] += frame[place : mark.start()]
        _append(pieces, tokenizer, texts[int(mark[1])])
        place = mark.end()
    pieces[-1] += frame[place:]
    _append(pieces, tokenizer, begun)
    encoded = (tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces)
    return [token for ids in encoded for token in ids]


def _append(pieces: list[str], tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Add a text to the last piece, and begin another piece within each control token."""
    control = _control_tokens(tokenizer, str(tokenizer.chat_template))
    if not control:
        pieces[-1] += text
        return
    spelled = re.compile(f"(?={'|'.join(map(re.escape, control))})")
    first, *others = _cut(text, [found.start() + 1 for found in spelled.finditer(text)])
    if tokenizer.is_fast and tokenizer.backend_tokenizer.normalizer is not None:
        ids = frozenset(tokenizer.convert_tokens_to_ids(control))
        first, *others = (
            part for piece in (first, *others) for part in _cut_found(tokenizer, piece, ids)
        )
    pieces[-1] += first
    pieces += others


def _cut(text: str, places: Sequence[int]) -> list[str]:
    return [text[i:j] for i, j in pairwise((0, *places, len(text)))]


def _cut_found(tokenizer: PreTrainedTokenizerBase, text: str, control: frozenset[int]) -> list[str]:
    """A text cut within each control token that the tokenizer finds once it has normalised it."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = [
        start + 1
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if token in control and end - start > 1
    ]
    if not places:
        return [text]
    return [part for piece in _cut(text, places) for part in _cut_found(tokenizer, piece, control)]


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, ...]:
    """Special tokens, added ones in brackets, and those that the template writes around turns.

    Tags of thinking are none: the template, a question and a reply write them alike.

    Args:
        template: the tokenizer's own, or its several ones, with which the result is kept.
    """
    speakers = ("user", "assistant", "user"), ("system", "user")
    frame = "".join(_sample_frame(tokenizer, roles) for roles in speakers)
    return tuple(
        token
        for token, is_special in _added_tokens(tokenizer).items()
        if len(token) > 1 and token not in TAGS and token.strip()
        if is_special or _BRACKETED.fullmatch(token) or token in frame
    )


@lru_cache(maxsize=16)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """The tokens that are found before a text is split, and whether each is special."""
    added = tokenizer.added_tokens_decoder.values()
    special = set(tokenizer.all_special_tokens)
    found = {token.content: token.special or token.content in special for token in added}
    return {token: found[token] for token in sorted(found, key=len, reverse=True)}


@lru_cache(maxsize=16)
def _hidden_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int] | None:
    """Special tokens that are no part of a text; None where all of them are such."""
    special = {t for t, is_special in _added_tokens(tokenizer).items() if is_special}
    if not special & set(TAGS):
        return None
    return frozenset(tokenizer.convert_tokens_to_ids(sorted(special - set(TAGS))))
