"""The process that runs an untrusted program: as a script, or serving calls to its functions.

Nothing here is secret or trusted: the program shares this interpreter and may do with it what it
likes. The tests are in another process (`examiner.py`), which asks one call after another and gets
plain data back; expected values never come here.
"""

import atexit
import builtins
import gc
import io
import itertools
import json
import operator
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

from rewards.sandbox import plain_data

# Descriptors, as the keeper places them.
JOB, READY, REQUESTS, REPLIES = 3, 4, 5, 6
NAME = "program"
_MOST_ITEMS = 100_000  # of an iterator that tests go through
_MESSAGE_CHARS = 500
_ARGS_CHARS = 100_000  # of an exception
_MISSING = object()
_CANNOT_COMPILE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def main() -> None:
    """Run the one job that comes; does not return."""
    with open(JOB, encoding="utf-8") as file:
        text = file.read()
    if not text:
        os._exit(0)
    job = json.loads(text)
    _forget_the_guest()
    if job["mode"] == "script":
        os.close(REQUESTS)
        os.close(REPLIES)
        _run_script(job["sources"])
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    _serve(job["sources"])
    os._exit(0)


def _run_script(sources: list[str]) -> None:
    """Run it as `python program.py` would, and end the process."""
    _fresh_streams()
    code, module = 1, _module("__main__")
    try:
        exec(_compiled(sources), module.__dict__)
        code = 0
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:
        traceback.print_exc()
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush()
        module.__dict__.clear()  # files that it has not closed are written as they go
        gc.collect()
        _flush()
    except BaseException:
        code = code or 1
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _serve(sources: list[str]) -> None:
    """Load the program, then answer requests until there are no more."""
    module = _module(NAME)
    try:
        exec(_compiled(sources), module.__dict__)
        _send({"ready": True})
    except BaseException as error:
        _send({"fatal": _described(error), "compiles": not isinstance(error, _Uncompilable)})
        return
    kept = _Kept(module)
    with open(REQUESTS, encoding="utf-8") as requests:
        for line in requests:
            try:
                reply = kept.answer(json.loads(line))
            except BaseException as error:
                reply = kept.raised(error)
            _send(reply)


class _Kept:
    """The program's objects that tests hold references to."""

    def __init__(self, module: types.ModuleType) -> None:
        self._names = module.__dict__
        self._objects: list[object] = []
        self._places: dict[int, int] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Do what a request says; the value, and which arguments the call has changed."""
        target = self._target(request["on"])
        if target is _MISSING:
            return {"missing": True}
        args = [plain_data.decode(one, self._resolve) for one in request.get("args", ())]
        kwargs = {k: plain_data.decode(v, self._resolve) for k, v in request.get("kwargs", ())}
        try:
            value = _OPERATIONS[request["do"]](target, *args, **kwargs)
        except StopIteration:
            if request["do"] != "next":
                raise
            return {"ended": True}
        reply: dict[str, object] = {"value": plain_data.encode(value, self._refer)}
        before = dict([*enumerate(request.get("args", ())), *request.get("kwargs", ())])
        changed = {}
        for place, argument in (*enumerate(args), *kwargs.items()):
            if isinstance(argument, list | dict | set | bytearray):
                after = plain_data.encode(argument, self._refer)
                if after != before[place]:
                    changed[place] = after
        return {**reply, "changed": changed} if changed else reply

    def raised(self, error: BaseException) -> dict[str, object]:
        """An exception: the nearest of Python's own, what it was made with, and how it reads."""
        text = _described(error)
        try:
            kinds = [one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins"]
            args = plain_data.encode(error.args, self._refer)
            if len(json.dumps(args)) > _ARGS_CHARS:
                args = [text]
            return {"raised": kinds[0], "name": type(error).__name__, "args": args, "text": text}
        except BaseException:
            return {"raised": "", "text": text}

    def _target(self, on: object) -> object:
        return self._objects[on] if isinstance(on, int) else self._names.get(str(on), _MISSING)

    def _resolve(self, reference: object) -> object:
        found = self._target(reference)
        if found is _MISSING:
            raise NameError(f"name {reference!r} is not defined")
        return found

    def _refer(self, value: object) -> int:
        if id(value) not in self._places:
            self._places[id(value)] = len(self._objects)
            self._objects.append(value)  # which also keeps its id its own
        return self._places[id(value)]


_OPERATIONS: Mapping[str, Callable[..., object]] = {
    "get": lambda target: target,
    "call": lambda target, /, *args, **kwargs: target(*args, **kwargs),
    "attribute": getattr,
    "assign": setattr,
    "items": lambda target: list(itertools.islice(target, _MOST_ITEMS)),
    "length": len,
    "next": next,
    "item": operator.getitem,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "text": str,
    "repr": repr,
}


class _Uncompilable(Exception):
    """No spelling of the program compiles."""


def _compiled(sources: list[str]) -> types.CodeType:
    """The first spelling that compiles; if none does, the first one's error."""
    first: BaseException | None = None
    for source in sources:
        try:
            return compile(source, "program.py", "exec", dont_inherit=True)
        except _CANNOT_COMPILE as error:
            first = first or error
    raise _Uncompilable(_described(first))


def _described(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
    except BaseException:
        return f"{type(error).__name__}, whose text cannot be had"


def _module(name: str) -> types.ModuleType:
    """An empty module under its name, as dataclasses and typing look it up."""
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module


def _forget_the_guest() -> None:
    """Leave the interpreter as a fresh one would be: no secret is lost with what goes."""
    for name in [one for one in sys.modules if one.split(".")[0] == "rewards"]:
        del sys.modules[name]
    sys.argv = ["program.py"]


def _fresh_streams() -> None:
    given = io.BufferedReader(io.FileIO(0, closefd=False))
    streams: dict[str, io.TextIOBase] = {
        "stdin": io.TextIOWrapper(given, encoding="utf-8", errors="replace")
    }
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
        streams[name] = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace")
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _send(reply: Mapping[str, object]) -> None:
    line = json.dumps(reply).encode() + b"\n"
    while line:
        line = line[os.write(REPLIES, line) :]
