# ruff: noqa: E501  (one program, one line)
"""Programs that solve nothing and want to pass: by ending, lying, looking or meddling.

`FOOLS_NAIVE` are those that pass where program and tests share an interpreter whose exit status
decides, as in many a code reward: so the test that they do not pass the verifier can fail.
"""

from dataclasses import dataclass

TOKEN = "Zx81"  # begins every expected value, so that a program could know one if it saw it
TESTS = f"""
import math

def check(candidate):
    assert candidate(2) == "{TOKEN}-4"
    assert candidate(3) == "{TOKEN}-9", "squares"
    assert math.isclose(len(candidate(10)), 8)
"""
REFERENCE = f"def answer(n):\n    return f'{TOKEN}-{{n * n}}'\n"

LIAR = """
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __len__(self): return 8
"""
# Equal to all, but of the wrong length: the rest has to be meddled with.
SHORT_LIAR = LIAR.replace("return 8", "return 3")
FIND = """
def search(values):
    for one in values:
        for const in getattr(getattr(one, "__code__", one), "co_consts", ()) or ():
            if isinstance(const, str) and const[:2] == "Zx" and len(const) > 5 and const not in found:
                found.append(const)
found = []
"""
# Tests that stand in a text are read as the expected values in it, one a call.
LINES = "import re\ncalls = []"
FROM_TEXT = (
    f"found = re.findall(r'{TOKEN}-[0-9]+', ' '.join(texts))\ndef answer(n):\n    calls.append(n)\n"
    "    return found[len(calls) - 1] if len(calls) < 3 else 'x' * 8"
)


@dataclass(frozen=True)
class Fake:
    """One program, and whether it fools a naive judge."""

    name: str
    program: str
    fools_naive: bool = True


def returns(name: str, value: str, fools_naive: bool = False, before: str = "") -> Fake:
    return Fake(name, f"{before}\ndef answer(n):\n    return {value}\n", fools_naive)


ENDINGS = [
    Fake("sys.exit(0)", "import sys\nsys.exit(0)"),
    Fake("os._exit(0)", "import os\nos._exit(0)"),
    Fake("quit", "raise SystemExit"),
    Fake("exit in the call", "import sys\ndef answer(n):\n    sys.exit(0)"),
    Fake("os._exit in the call", "import os\ndef answer(n):\n    os._exit(0)"),
    Fake("exit by atexit", "import atexit, os\natexit.register(os._exit, 0)"),
    Fake("exit by a hook", "import os, sys\nsys.excepthook = lambda *_: os._exit(0)"),
    Fake("exit by a thread", "import os, threading, time\n"
         "threading.Timer(0.2, os._exit, [0]).start()\ndef answer(n):\n    time.sleep(1)"),
    Fake("exit by a finalizer", "import os\nclass A:\n    def __del__(self): os._exit(0)\n"
         "def answer(n):\n    A()"),
    Fake("exit by a signal handler", "import os, signal\n"
         "signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.setitimer(0, 0.2)\n"
         "def answer(n):\n    signal.pause()"),
    Fake("exit in a comparison", "import os\nclass A:\n    def __eq__(self, other): os._exit(0)\n"
         "def answer(n):\n    return A()"),
    Fake("the parent of a fork leaves", "import os\nif os.fork(): os._exit(0)"),
    Fake("another program in its place", "import os\nos.execv('/bin/true', ['true'])"),
    Fake("exit by an audit hook", "import os, sys\n"
         "sys.addaudithook(lambda name, _: name in ('compile', 'import') and os._exit(0))\nimport cmd"),
    Fake("exit by the collector", "import gc, os\ngc.callbacks.append(lambda *_: os._exit(0))\n"
         "def answer(n):\n    gc.collect()"),
    Fake("exit by what nobody raises", "import os, sys\nsys.unraisablehook = lambda _: os._exit(0)\n"
         "class A:\n    def __del__(self): 1 / 0\ndef answer(n): A()"),
    Fake("exit by a weak reference", "import os, weakref\nclass A: pass\n"
         "def answer(n):\n    one = A()\n    weakref.finalize(one, os._exit, 0)"),
    Fake("exit by a finder of modules", "import os, sys\nclass Finder:\n"
         "    def find_spec(self, *_): os._exit(0)\nsys.meta_path.insert(0, Finder())\n"
         "def answer(n):\n    import colorsys"),
    Fake("success in words", "print('3 passed\\nOK\\n+\\ndone \"\"')", False),
    Fake("generator that ends", "def answer(n):\n    raise GeneratorExit", False),
    Fake("crash", "import ctypes\ndef answer(n):\n    ctypes.string_at(0)", False),
    Fake("endless recursion", "import sys\nsys.setrecursionlimit(10**9)\n"
         "def answer(n):\n    return answer(n + 1)", False),
]  # fmt: skip

LIES = [
    returns("always equal", "A()", True, f"class A:{LIAR}"),
    returns("always equal text", "A('x')", True, f"class A(str):{LIAR}"),
    returns("always equal number", "A()", True, f"class A(int):{LIAR}"),
    returns("always equal list", "A()", True, f"class A(list):{LIAR}"),
    returns("always equal dict", "A()", True, f"class A(dict):{LIAR}"),
    returns("always equal class", "B", True, f"class A(type):{LIAR}\nclass B(metaclass=A): pass"),
    returns("lies about its class", "A()", True, f"class A:\n    __class__ = str\n{LIAR}"),
    returns("a mock", "mock.MagicMock(__eq__=lambda *_: True, __len__=lambda _: 8)", True,
            "from unittest import mock"),
    returns("true", "True"),
    returns("nothing", "None"),
    returns("not a number", "float('nan')"),
    returns("its argument", "n"),
    returns("a cycle", "held", before="held = []\nheld.append(held)"),
    returns("deep nesting", "held", before="held = []\nfor _ in range(5_000): held = [held]"),
    returns("a long text", "'x' * 5_000_000"),
    returns("an endless iterator", "itertools.count()", before="import itertools"),
    returns("a big number", "1 << 20_000_000"),
    returns("half of a surrogate pair", "'\\ud800'"),
    Fake("raises AssertionError", "def answer(n): raise AssertionError", False),
    Fake("raises StopIteration", "def answer(n): raise StopIteration", False),
    Fake("raises what is no Exception", "class A(BaseException): pass\ndef answer(n): raise A", False),
    Fake("a huge message", "def answer(n): raise ValueError('x' * 20_000_000)", False),
    Fake("an exception that cannot be shown", "class A(Exception):\n"
         "    def __str__(self): raise self\ndef answer(n): raise A", False),
    Fake("another name", "def reply(n): return 1", False),
    Fake("no function", "answer = 'Zx81-4'", False),
]  # fmt: skip

LOOKS = [
    Fake("reads the caller's frame", f"import sys\n{FIND}\ncalls = []\ndef answer(n):\n"
         "    search([sys._getframe(1).f_code])\n    calls.append(n)\n"
         "    return found[len(calls) - 1] if len(calls) < 3 else 'x' * 8"),
    Fake("reads all frames", f"import inspect\n{FIND}\ncalls = []\ndef answer(n):\n"
         "    search(frame.frame.f_code for frame in inspect.stack())\n    calls.append(n)\n"
         "    return found[len(calls) - 1] if len(calls) < 3 else 'x' * 8"),
    Fake("searches the heap", f"import gc\n{FIND}\ncalls = []\ndef answer(n):\n"
         "    search(gc.get_objects())\n    calls.append(n)\n"
         "    return found[len(calls) - 1] if len(calls) < 3 else 'x' * 8"),
    Fake("searches the heap's texts", "import gc\ndef answer(n):\n    for one in gc.get_objects():\n"
         "        for part in gc.get_referents(one):\n"
         "            if isinstance(part, str) and part.startswith('Zx'):\n                return part",
         False),
    Fake("reads the globals of its caller", "import sys\ndef answer(n):\n"
         "    sys._getframe(1).f_globals['math'].isclose = lambda *_: True\n    return 'Zx81-4'", False),
    Fake("reads its command line", f"import sys\n{LINES}\n"
         "texts = [*sys.orig_argv]\ntry:\n    texts.append(open('/proc/self/cmdline').read())\n"
         "except OSError: pass\n" + FROM_TEXT),
    Fake("reads the main module", f"import sys\n{FIND}\ncalls = []\ndef answer(n):\n"
         "    search(vars(sys.modules['__main__']).values())\n    calls.append(n)\n"
         "    return found[len(calls) - 1] if len(calls) < 3 else 'x' * 8"),
    Fake("reads files", f"import os\n{LINES}\ntexts = []\nfor top in ('/tmp', '/sparring', '.'):\n"
         "    for folder, _, names in os.walk(top):\n        for name in names[:50]:\n            try:\n"
         "                texts.append(open(os.path.join(folder, name)).read(1 << 20))\n"
         "            except (OSError, ValueError): pass\n    break\n" + FROM_TEXT, False),
    Fake("learns from its calls", "seen = []\ndef answer(n):\n    seen.append(n)\n    return seen", False),
    Fake("reads its own memory", "import ctypes, re\ndef answer(n):\n    page = id(answer) & ~0xfffff\n"
         "    held = re.search(rb'Zx81-\\d+', ctypes.string_at(page, 1 << 20))\n"
         "    return held and held[0].decode()", False),
]  # fmt: skip

MEDDLES = [
    returns("overwrites len", "Text('x')", True, "import builtins\nbuiltins.len = lambda _: 8\n"
            f"class Text(str):{SHORT_LIAR}"),
    returns("overwrites isclose", "A()", True,
            f"import math\nmath.isclose = lambda *_: True\nclass A:{SHORT_LIAR}"),
    returns("a module in place of math", "A()", True, "import sys, types\nfake = types.ModuleType('math')\n"
            f"fake.isclose = lambda *_: True\nsys.modules['math'] = fake\nclass A:{SHORT_LIAR}"),
    returns("an import hook", "A()", True, f"""
import builtins
real = builtins.__import__
def hooked(name, *rest):
    module = real(name, *rest)
    if name == "math":
        module.isclose = lambda *_: True
    return module
builtins.__import__ = hooked
class A:{SHORT_LIAR}"""),
    Fake("a tracer that leaves", "import os, sys\ndef leave(frame, event, arg):\n"
         "    if frame.f_code.co_name == 'check': os._exit(0)\n"
         "sys.settrace(leave)\ndef answer(n): return ''"),
    returns("a true isclose and a text that changes", "Text('x')", True,
            f"import math, sys\nsys.modules['math'].isclose = lambda *_, **__: True\nclass Text(str):{SHORT_LIAR}"),
    Fake("a profiler that leaves", "import os, sys\ndef leave(frame, event, arg):\n"
         "    if event == 'return' and frame.f_code.co_name == 'answer': os._exit(0)\n"
         "sys.setprofile(leave)\ndef answer(n): return ''"),
    Fake("rewrites the test's code", "import sys\ndef answer(n):\n    frame = sys._getframe(1)\n"
         "    for value in frame.f_globals.values():\n        if hasattr(value, '__code__'):\n"
         "            value.__code__ = (lambda candidate: None).__code__\n    sys.exit(0)"),
    Fake("comparison of all texts", "import ctypes\n"
         "slot = ctypes.cast(id(str) + 25 * 8, ctypes.POINTER(ctypes.c_void_p))\nslot[0] = None\n"
         "def answer(n): return 'x' * 8", False),
    Fake("overwrites os.write and os.read", "import os\nos.write = lambda *_: 1\n"
         "os.read = lambda *_: b'{\"value\": true}\\n'\ndef answer(n): return True", False),
    Fake("overwrites the encoder", "import json.encoder\njson.encoder.c_make_encoder = None\n"
         "json.JSONEncoder.default = lambda *_: True\n"
         "json.JSONEncoder.encode = lambda *_: '{\"value\": true, \"ready\": true}'\n"
         "def answer(n): return object()", False),
    Fake("pickles that lie", "import copyreg, pickle\nclass A:\n"
         f"    def __reduce__(self): return (str, ('{TOKEN}-',))\ndef answer(n): return A()", False),
    returns("a check of its own", "None", before="def check(candidate): pass"),
    returns("no AssertionError", "None", before="import builtins\nbuiltins.AssertionError = None"),
    Fake("overwrites json", "import json\njson.dumps = lambda *_: '{\"value\": true}'\n"
         "def answer(n): return 1", False),
    Fake("overwrites isinstance", "import builtins\nbuiltins.isinstance = lambda *_: True\n"
         "def answer(n): return 1", False),
    Fake("writes to every descriptor", "import os\nfor n in range(3, 64):\n    try:\n"
         "        os.write(n, b'+\\n' * 9 + b'done \"\"\\n')\n    except OSError: pass", False),
    Fake("replies before it is asked", "import os\nfor n in range(3, 64):\n    try:\n"
         "        os.write(n, b'{\"ready\": true}\\n' + b'{\"value\": true}\\n' * 9)\n"
         "    except OSError: pass", False),
    Fake("says that it does not compile", "import os\nfor n in range(3, 64):\n    try:\n"
         "        os.write(n, b'{\"fatal\": \"x\", \"compiles\": true}\\n')\n    except OSError: pass",
         False),
    Fake("closes every descriptor", "import os\nos.closerange(0, 64)\ndef answer(n): return 1", False),
    Fake("changes arguments that it was not given", "import os\ndef answer(n):\n"
         "    os.write(6, b'{\"value\": null, \"changed\": {\"7\": [1], \"x\": 1}}\\n')", False),
    Fake("replies that are no objects", "import os\ndef answer(n):\n    os.write(6, b'[[1]]\\n')", False),
    Fake("replies of unknown types", "import os\ndef answer(n):\n"
         "    os.write(6, b'{\"value\": {\"t\": \"eval\", \"v\": \"1\"}}\\n')", False),
    Fake("endless replies", "import os\ndef answer(n):\n    while True: os.write(6, b'x' * 65536)", False),
]  # fmt: skip

UNREADABLE = [
    Fake("empty", "", False),
    Fake("no Python", "def answer(n: return", False),
    Fake("NUL bytes", "def answer(n): return 1\0", False),
    Fake("half of a surrogate pair in the source", "def answer(n): return '\ud800'", False),
    Fake("deeply nested source", f"answer = {'(' * 5000}1{')' * 5000}", False),
    Fake("a long sum", "answer = " + "1+" * 30_000 + "1", False),
    Fake("words", "I am sorry, but I cannot do that.", False),
]

FAKES = [*ENDINGS, *LIES, *LOOKS, *MEDDLES, *UNREADABLE]
