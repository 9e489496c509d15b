# ruff: noqa: E501  (one program, one line)
"""Fakes of tests that are easier to fool than those of `fake_successes.py`, and right programs.

Each has its own tests. No fake may pass; every right program must, though its calls and values go
from one process to another. Leaves out who judges them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Judged:
    """A program and what it is judged by.

    Attributes:
        reference: the program that passes, where the tests use what it imports.
    """

    name: str
    program: str
    parameters: dict[str, object]
    reference: str = "?"


def tested(name: str, program: str, *tests: str, reference: str = "?", **more: object) -> Judged:
    return Judged(name, program, {"tests": [*tests], **more}, reference)


def printing(name: str, program: str, stdout: str) -> Judged:
    return Judged(name, program, {"cases": [{"stdin": "1\n", "stdout": stdout}]})


STOPS = "def f(x): raise StopIteration"
ENDS = "class A(StopIteration): pass\ndef f(x): raise A"
TRUE = "staticmethod(lambda *_, **__: True)"
USES_CLOSE = "from math import isclose as near\ndef f(x): return x * 0.75"

OTHER_FAKES = [
    tested("ends the test's map", STOPS, "assert all(map(f, [1, 2, 3]))"),
    tested("ends the test's map by a kind of its own", ENDS, "assert all(map(f, [1, 2, 3]))"),
    tested("ends the test's zip", STOPS,
           "for got, want in zip(map(f, [1, 2]), [1, 4]):\n    assert got == want\nassert True"),
    tested("ends the test's map later", "def f(x):\n    if x > 1: raise StopIteration\n    return x",
           "got = list(map(f, [1, 2]))\nassert all(g == w for g, w in zip(got, [1, 4]))"),
    tested("a math of its own", f"class math: isclose = {TRUE}\ndef f(x): return 0",
           "assert math.isclose(f(2), 1.5)"),
    tested("an isclose of its own", "def near(*_): return True\ndef f(x): return 0",
           "assert near(f(2), 1.5)", reference=USES_CLOSE),
    tested("a Counter of its own", "def Counter(text): return 1\ndef f(x): return 1",
           "assert f('aab') == Counter('aab')",
           reference="from collections import Counter\ndef f(x): return Counter(x)"),
    tested("no turns of a loop", "def f(x): return []", "for one in f(3):\n    assert one == 3"),
    tested("an end in the setup", "raise SystemExit(0)", "assert f(1) == 2", setup="held = f"),
    tested("a setup that fails by the program", "f = 1", "assert f(1) == 2", setup="f.x.y"),
    tested("an end within a test of any error", "import os\ndef f(x):\n    if x < 0: os._exit(0)\n"
           "    return x * x", "assert f(2) == 4",
           "try:\n    f(-1)\n    assert False\nexcept:\n    pass"),
    tested("equal by a method", "class A:\n    def __eq__(self, other): return True\n"
           "def f(x): return A()", "assert f(1) == 1 and f(1) != 2"),
    tested("equal to its own like", "class A:\n    def __eq__(self, other): return True\n"
           "def f(x): return A()\ndef g(x): return A()", "assert f(1) == g(2)"),
    tested("changes what is compared", "def f(x): x.clear()", "x = [1]\nassert f(x) == sorted(x)"),
    tested("an error that hides another", "class A(AssertionError, ValueError): pass\n"
           "def f(x): raise A", "try:\n    f(1)\n    assert False\nexcept KeyError:\n    pass"),
    tested("an exception with lying arguments", "class A(ValueError):\n"
           "    def __init__(self, *_): self.args = ('no', [], {1: object()})\n"
           "def f(x): raise A", "try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'bad'"),
    tested("a number that is none", "def f(x): return float('nan')",
           "assert not f(1) < 0 and f(1) == 2", "assert abs(f(1) - 2) < 1e-6"),
    printing("form feeds for ends of lines", "print('A\\x0cB')", "A\nB"),
    printing("separators for ends of lines", "print('A\\u2028B')", "A\nB"),
    printing("a carriage return over a wrong answer", "print('7\\rAB')", "AB"),
    printing("NULs after it", "print('AB\\0')", "AB"),
    printing("the answer among others", "print('A', 'AB', 'B', sep='\\n')", "AB"),
    printing("errors in place of output", "import sys\nprint('AB', file=sys.stderr)", "AB"),
    printing("a failure after the answer", "print('AB')\nimport os\nos.abort()", "AB"),
    printing("an overwritten print", "import builtins\nbuiltins.print = lambda *_: 'AB'\nprint()", "AB"),
]  # fmt: skip

RAISES = "try:\n    f(1)\n    assert False\nexcept {} as e:\n    assert {}"

RIGHT = [
    tested("names of arguments", "def f(target, args, what, on, self=0): return target",
           "assert f(target=9, args=1, what=2, on=3, self=4) == 9"),
    tested("a constant", "LIMIT = 3", "assert LIMIT == 3", names=["LIMIT"]),
    tested("a function called like Python's", "def sum(x): return 'mine'", "assert sum([1]) == 'mine'",
           names=["sum"]),
    tested("an error's text", "def f(x): raise ValueError('no good')",
           RAISES.format("ValueError", "str(e) == 'no good'")),
    tested("an error's key", "def f(x): raise KeyError(x)",
           RAISES.format("KeyError", "e.args == (1,)")),
    tested("a kind of ValueError", "class Bad(ValueError): pass\ndef f(x): raise Bad('x')",
           RAISES.format("ValueError", "type(e).__name__ == 'Bad'")),
    tested("an error of two arguments", "def f(x): raise OSError(2, 'gone')",
           RAISES.format("FileNotFoundError", "e.errno == 2")),
    tested("a generator, step by step", "def f():\n    yield 1\n    yield 2",
           "g = f()\nassert next(g) == 1\nassert next(g) == 2\nassert next(g, None) is None"),
    tested("entries by key", "class D(dict): pass\nclass M:\n    def __init__(self): self.d = {}\n"
           "    def __setitem__(self, k, v): self.d[k] = v\n    def __getitem__(self, k): return self.d[k]\n"
           "    def __delitem__(self, k): del self.d[k]",
           "m = M()\nm['a'] = 2\nassert m['a'] == 2\ndel m['a']\ntry:\n    m['a']\n    assert False\n"
           "except KeyError:\n    pass"),
    tested("in place by keyword", "def f(x): x.sort()", "x = [2, 1]\nf(x=x)\nassert x == [1, 2]"),
    tested("what the reference imports", USES_CLOSE, "assert near(f(2), 1.5)", reference=USES_CLOSE),
    tested("a module that nobody imports", "def f(x): return x * 0.75",
           "assert math.isclose(f(2), 1.5)"),
    tested("an object called like a module", "class C:\n    def day(self): return 3\ncalendar = C()",
           "assert calendar.day() == 3",
           reference="class C:\n    def day(self): return 3\ncalendar = C()"),
    printing("many errors", "import sys\nsys.stderr.write('x' * 100_000)\nprint('AB')", "AB"),
    printing("a file of its own, never closed", "import os\nout = os.fdopen(1, 'w')\nout.write('AB')", "AB"),
    printing("output closed", "import sys\nprint('AB')\nsys.stdout.close()", "AB"),
    printing("output wrapped anew", "import io, sys\n"
             "sys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint('AB')", "AB"),
    printing("words at its end", "class A:\n    def __del__(self): print('AB')\nheld = A()", "AB"),
    printing("lines of Windows", "import sys\nsys.stdout.write('A\\r\\nB\\r\\n')", "A\nB"),
]  # fmt: skip
