"""The process that holds the tests and asks the program, in a sandbox of its own.

A test is Python with `assert`s, as in HumanEval (`check(candidate)`) and MBPP. The program's
functions stand in it as references: a call goes to the program's process over a pipe, and plain
data comes back (`plain_data.py`), so that all comparing is done here, with Python's own types. Each
assertion is counted, and a failed one does not end the others. Tests cannot pass functions of their
own to the program, name its classes in `except` or `isinstance`, or compare its objects.
"""

import ast
import builtins
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rewards.sandbox import plain_data

# Descriptors, as the keeper places them.
JOB, READY, REQUESTS, REPLIES, REPORT = 3, 4, 5, 6, 7
_LONGEST_REPLY = 4 * 1024 * 1024
_NUM_DETAILS = 5
_DETAIL_CHARS = 300
# Within `map` or `zip` these would end the tests' own loop as if all had been asked (PEP 479).
_ENDS_A_LOOP = (StopIteration, StopAsyncIteration)
_FAILED, _PASSED = "__sandbox_failed__", "__sandbox_passed__"


class ProgramEnded(BaseException):
    """The program's process is gone, or no longer makes sense."""


class ProgramError(Exception):
    """The program raised what is no exception of Python's that tests may see."""


class BrokenTests(BaseException):
    """The tests ask for what the program cannot be asked; no assertion may catch it."""


def main() -> None:
    """Examine the one job that comes; does not return."""
    with open(JOB, encoding="utf-8") as file:
        text = file.read()
    if text:
        report = _Report()
        try:
            _examine(json.loads(text), report)
        except ProgramEnded as error:
            report.line("ended", str(error))
        except BrokenTests as error:
            report.line("fault", str(error))
        except BaseException as error:
            report.line("fault", f"{type(error).__name__}: {error}")
    os._exit(0)


def _examine(job: Mapping[str, Any], report: "_Report") -> None:
    channel = _Channel()
    told = channel.receive()
    if "fatal" in told:
        report.line("fatal" if told.get("compiles", True) else "uncompilable", str(told["fatal"]))
        return
    names = _Names(channel, job["names"])
    names.update({_FAILED: report.failed, _PASSED: report.passed, "__name__": "tests"})
    if job["prompt"] and (code := _prompt(job["prompt"])):
        exec(code, names)
    if entry_point := job["entry_point"]:
        names[entry_point] = Remote(channel, entry_point)
    candidate = names["candidate"] = names.get(entry_point)
    if not _set_up(job["setup"], names, channel, report):
        return
    counting = _Counting()
    for test in job["tests"]:
        code = compile(counting.counted(test), "tests.py", "exec")
        report.attempt(lambda code=code: exec(code, names))
    check = names.get("check")
    if candidate is not None and check is not None and not isinstance(check, Remote):
        report.attempt(lambda: check(candidate))
    if channel.ended:  # though a test that takes any exception went on
        raise ProgramEnded(channel.ended)
    broken = "" if channel.num_calls else "the tests do not ask the program"
    report.line("done", broken if counting.num_assertions else "the tests assert nothing")


def _set_up(setup: str, names: "_Names", channel: "_Channel", report: "_Report") -> bool:
    """Run what precedes the tests; what the program makes fail in it is the program's failure."""
    try:
        exec(setup, names)
    except Exception as error:
        if not channel.num_calls:
            raise
        report.failed(error, "setup")
        report.line("done")
        return False
    return True


def _prompt(text: str) -> Any:
    """What the task shows of the program, such as helpers that its tests use."""
    try:
        return compile(text, "prompt.py", "exec")
    except (SyntaxError, ValueError):  # it ends within a statement
        return None


class _Report:
    """What the keeper learns: one line per assertion, and one at the end."""

    def __init__(self) -> None:
        self._num_failed = 0

    def line(self, kind: str, text: str = "") -> None:
        shown = json.dumps(text[:_DETAIL_CHARS])
        os.write(REPORT, f"{kind} {shown}\n".encode())

    def passed(self) -> None:
        os.write(REPORT, b"+\n")

    def failed(self, error: BaseException, what: str = "") -> None:
        self._num_failed += 1
        if self._num_failed > _NUM_DETAILS:
            os.write(REPORT, b"-\n")
        else:
            self.line("-", f"{what}: {type(error).__name__} {error}".strip(": "))

    def attempt(self, run: Any) -> None:
        """Run some of the tests; what they raise is a failure."""
        try:
            run()
        except Exception as error:
            self.failed(error)


class _Names(dict[str, Any]):
    """The tests' global names: those that they do not define are the program's.

    Args:
        own: the program's, though they are Python's own as well.
    """

    def __init__(self, channel: "_Channel", own: Sequence[str]) -> None:
        super().__init__()
        self._channel, self._own = channel, frozenset(own)

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or (hasattr(builtins, name) and name not in self._own):
            raise KeyError(name)
        reply = self._channel.ask({"do": "get", "on": name})
        if "missing" in reply:
            raise KeyError(name)
        return self._channel.value(reply)


class _Channel:
    """Requests to the program's process, and its replies: how many, and why there are no more."""

    def __init__(self) -> None:
        self._buffer = b""
        self.num_calls, self.ended = 0, ""

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and wait for what is done about it."""
        line = json.dumps(request).encode() + b"\n"
        try:
            while line:
                line = line[os.write(REQUESTS, line) :]
        except BrokenPipeError:
            raise self._end("the program ended before its tests did") from None
        reply = self.receive()
        self.num_calls += 1
        if "raised" in reply:
            raise self._raised(reply)
        return reply

    def _raised(self, reply: Mapping[str, Any]) -> Exception:
        """What the program raised: one of Python's own exceptions, perhaps under another name."""
        kind = getattr(builtins, str(reply["raised"]), None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in _ENDS_A_LOOP:
            with suppress(Exception):
                args, name = self.value({"value": reply["args"]}), str(reply["name"])
                named = kind if kind.__name__ == name else type(name, (kind,), {})
                error: Exception = named(*args)
                return error
        return ProgramError(str(reply.get("text", ""))[:_DETAIL_CHARS])

    def value(self, reply: Mapping[str, Any]) -> Any:
        """The value that a reply carries."""
        try:
            return plain_data.decode(reply.get("value"), self._resolve)
        except (KeyError, TypeError, AttributeError, OverflowError, ArithmeticError) as error:
            raise ValueError(f"the program returned no plain data: {error}") from None

    def receive(self) -> dict[str, Any]:
        """The next line from the program's process."""
        while b"\n" not in self._buffer:
            chunk = os.read(REPLIES, 1 << 16)
            if not chunk:
                raise self._end("the program ended before its tests did")
            self._buffer += chunk
            if len(self._buffer) > _LONGEST_REPLY:
                raise self._end(f"the program returned more than {_LONGEST_REPLY} bytes")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise self._end("the program wrote something else than replies")
        return reply

    def _end(self, why: str) -> ProgramEnded:
        self.ended = self.ended or why
        return ProgramEnded(self.ended)

    def _resolve(self, reference: object) -> "Remote":
        if not isinstance(reference, int):
            raise TypeError(f"a reference is a number, got {reference!r:.80}")
        return Remote(self, reference)


class Remote:
    """A function, class or object of the program's, by name or by number."""

    _channel: _Channel
    _on: str | int

    def __init__(self, channel: _Channel, on: str | int) -> None:
        vars(self).update(_channel=channel, _on=on)

    def _do(
        self, what: str, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        request = {
            "do": what, "on": self._on, "args": [plain_data.encode(one, _refer) for one in args],
            "kwargs": [[k, plain_data.encode(v, _refer)] for k, v in (kwargs or {}).items()],
        }  # fmt: skip
        reply = self._channel.ask(request)
        if "missing" in reply:
            raise NameError(f"name {self._on!r} is not defined")
        if "ended" in reply and what == "next":
            raise StopIteration
        value = self._channel.value(reply)
        if value is None:  # only what returns nothing is there to change its arguments
            given = {**{str(place): one for place, one in enumerate(args)}, **(kwargs or {})}
            for place, changed in dict(reply.get("changed", {})).items():
                _replace(given[place], self._channel.value({"value": changed}))
        return value

    def __call__(self, /, *args: object, **kwargs: object) -> Any:
        return self._do("call", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._do("attribute", (name,))

    def __setattr__(self, name: str, value: object) -> None:
        self._do("assign", (name, value))

    def __iter__(self) -> Iterator[Any]:
        found = self._do("items")
        return iter(found if type(found) is list else ())

    def __next__(self) -> Any:
        return self._do("next")

    def __len__(self) -> int:
        return int(self._do("length"))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: object) -> Any:
        return self._do("item", (key,))

    def __setitem__(self, key: object, value: object) -> None:
        self._do("set item", (key, value))

    def __delitem__(self, key: object) -> None:
        self._do("delete item", (key,))

    def __str__(self) -> str:
        return str(self._do("text"))

    def __repr__(self) -> str:
        return str(self._do("repr"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._on == self._on  # never asks the program

    def __hash__(self) -> int:
        return hash(self._on)


def _refer(value: object) -> object:
    if isinstance(value, Remote):
        return value._on
    raise BrokenTests(f"they cannot pass a {type(value).__name__} to the program: use plain data")


def _replace(argument: Any, changed: Any) -> None:
    """Change an argument as the program changed its copy."""
    if type(argument) is not type(changed):
        return
    if isinstance(argument, list | bytearray):
        argument[:] = changed
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(changed)


# -- counting assertions --------------------------------------------------------------------------


class _Counting(ast.NodeTransformer):
    """Makes tests report each assertion, and go on after one that fails.

    Attributes:
        num_assertions: how many they hold; one in a loop counts once here.
    """

    def __init__(self) -> None:
        self.num_assertions = 0

    def counted(self, source: str) -> ast.Module:
        """The tests, changed."""
        tree = ast.parse(source)
        self.visit(tree)
        return ast.fix_missing_locations(tree)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        return self._reported(node, ast.unparse(node.test)[:_DETAIL_CHARS])

    def visit_Try(self, node: ast.Try) -> ast.stmt:
        """A test of what is raised: its assertions are for its own handlers, and it is one."""
        holds = any(isinstance(one, ast.Assert | ast.Raise) for one in ast.walk(node))
        return self._reported(node, "try") if holds else node

    def _reported(self, node: ast.stmt, what: str) -> ast.stmt:
        self.num_assertions += 1
        wrapped = ast.parse(
            f"try:\n    pass\nexcept Exception as __error__:\n    {_FAILED}(__error__, {what!r})\n"
            f"else:\n    {_PASSED}()\n"
        ).body[0]
        assert isinstance(wrapped, ast.Try), "as written"
        wrapped.body = [node]
        return wrapped
