"""The program in a model's reply, as one or more spellings of which the first that compiles counts.

A chat model writes a fenced block: the last one is meant. A base model continues the prompt, and
often goes on after the function's end. A reply without the function's header is taken for its body.
Nothing is parsed here: a hostile text may crash Python's own parser, so that compiling is left to
the sandbox (`sandbox/program.py`).
"""

import re

# ``` or ~~~, perhaps indented in a list; a block that never closes runs to the end.
_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)"
    r"(?:^[ \t]*(?P=mark)[`~]*[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)


def code_of(reply: str) -> str:
    """The last fenced block that is not empty, or all of the reply where there is none."""
    blocks = [block for block in _FENCE.finditer(reply) if block["code"].strip()]
    if not blocks:
        return reply
    code, indent = blocks[-1]["code"], blocks[-1]["indent"]
    return re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) if indent else code


def spellings(answer: str, prompt: str = "", entry_point: str = "") -> list[str]:
    """The programs that an answer may mean.

    Args:
        answer: a reply, or the code in it.
        prompt: the code that the reply may continue.
        entry_point: the function that a whole program defines; "" takes every answer for one.
    """
    code = code_of(answer)
    if not prompt:
        return [code]
    if not entry_point or _defines(code, entry_point):
        # The prompt's imports and helpers count; its unfinished function is defined again.
        return [f"{prompt}\n\n{code}", code]
    body = code if code[:1].isspace() else _indented(code)
    joined = prompt if prompt.endswith("\n") else f"{prompt}\n"
    return list(dict.fromkeys([joined + code, joined + _until_dedent(code), joined + body]))


def _defines(code: str, name: str) -> bool:
    """Whether a name is defined at the top level: a function, a class or a variable."""
    return bool(
        re.search(rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b", code, re.MULTILINE)
        or re.search(rf"^{re.escape(name)}[ \t]*(?::[^=\n]*)?=(?!=)", code, re.MULTILINE)
    )


def _until_dedent(code: str) -> str:
    """A function's body, without what a base model writes after it."""
    kept: list[str] = []
    for line in code.splitlines(keepends=True):
        if kept and line.strip() and not line[0].isspace() and not line.startswith("#"):
            break
        kept.append(line)
    return "".join(kept)


def _indented(code: str) -> str:
    return re.sub(r"^(?=[^\n])", "    ", code, flags=re.MULTILINE)
