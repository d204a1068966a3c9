"""The code reward: what it pays for, how it is not cheated, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.rewards import code
from finetune.rewards.cases import BadTest, read_cases
from finetune.rewards.code import Limits, run, score_code, written_code

LIMITS = Limits(seconds=1, megabytes=256)
SQUARE = "def f(x):\n    return x * x\n"
TESTS = ["assert f(2) == 4", "assert f(-3) == 9", "assert abs(f(0.5) - 0.25) < 1e-6"]


def paid(answer: str, tests: object = TESTS) -> float:
    """What one answer gets."""
    return score_code([answer], [read_cases(tests)], LIMITS)[0]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders of answers lie."""
    folder = tmp_path / "folders"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def processes(place: Path) -> set[str]:
    """The command lines of cages and what runs in them, of this test."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(str(place)) for word in words):
            found.add(f"{folder.name} {' '.join(words)}")
    return found


RIGHT = {
    "plain": SQUARE,
    "fenced": f"I square it:\n\n```python\n{SQUARE}```\nDone.",
    "the last of two blocks": f"```python\ndef f(x): return x\n```\nBetter:\n```py\n{SQUARE}```",
    "prints": f"print('9', flush=True)\n{SQUARE}",
    "writes to its own folder": f"with open('note.txt', 'w') as file:\n    file.write('a')\n{SQUARE}",
    "uses the library": "import asyncio, collections, dataclasses, decimal, heapq, random, tempfile, threading, typing\n"
    "async def g(x):\n    return x * x\ndef f(x):\n    return asyncio.run(g(x))\n",
    "dataclass": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass P:\n    x: float\ndef f(x):\n    return P(x).x ** 2\n",
}
WRONG = {
    "wrong": "def f(x):\n    return x",
    "no code": "I would square it.",
    "endless loop": "while True:\n    pass",
    "endless loop in the function": "def f(x):\n    while True:\n        pass",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "ten gigabytes": f"block = bytearray(10 << 30)\n{SQUARE}",
    "more than its memory": f"block = bytearray(b'x') * (300 << 20)\n{SQUARE}",
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x):\n    sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "prints the expected values": "print(4)\nprint(9)\nprint(0.25)\nprint('{\"values\": [[4], [9], [0.25]]}')",
    "equal to everything": "class Any:\n    def __eq__(self, other): return True\n    def __sub__(self, other): return self\n"
    "    def __abs__(self): return 0\n    def __lt__(self, other): return True\ndef f(x):\n    return Any()",
    "an int that is equal to everything": "class Any(int):\n    def __eq__(self, other): return True\n"
    "    __hash__ = int.__hash__\ndef f(x):\n    return Any(1)",
    "patched built-ins": "import builtins, operator, math\nbuiltins.abs = lambda x: 0\noperator.eq = lambda a, b: True\n"
    "math.isclose = lambda *a, **k: True\nbuiltins.all = lambda x: True\ndef f(x):\n    return 1",
    "patched harness": "import __main__, json\n__main__._values = lambda *a: [[4], [9], [0.25]]\n"
    "json.dumps = lambda *a, **k: '{\"values\": []}'\ndef f(x):\n    return x",
    "reads /etc/passwd": f"open('/etc/passwd').read()\n{SQUARE}",
    "reads it and hides that": f"try:\n    open('/etc/passwd')\nexcept BaseException:\n    pass\n{SQUARE}",
    "reads above its folder": f"import os\nos.listdir('..')\n{SQUARE}",
    "reads what the harness is": "import sys\nopen(sys.argv[0]).read()\n" + SQUARE,
    "starts a program": f"import subprocess\nsubprocess.run(['/bin/true'])\n{SQUARE}",
    "starts a program by the back door": f"import _posixsubprocess\n_posixsubprocess.fork_exec()\n{SQUARE}",
    "opens a socket": f"import socket\nsocket.socket()\n{SQUARE}",
    "calls C": f"import ctypes\n{SQUARE}",
    "looks through memory": f"import gc\ngc.get_objects()\n{SQUARE}",
    "kills its parent": f"import os\nos.kill(os.getppid(), 9)\n{SQUARE}",
    "a flood": "def f(x):\n    return 'x' * 50_000_000",
    "nested too deeply": "def f(x):\n    found = []\n    for _ in range(10_000):\n        found = [found]\n    return found",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_solution_is_paid(name: str) -> None:
    assert paid(RIGHT[name]) == 1


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_or_cheats_is_not_paid(name: str) -> None:
    assert paid(WRONG[name]) == 0


def test_nothing_is_left_behind(place: Path) -> None:
    answers = ["import os\nwhile True:\n    os.fork()", "while True:\n    pass", SQUARE] * 2
    assert score_code(answers, [read_cases(TESTS)] * 6, LIMITS) == [0, 0, 1] * 2
    assert processes(place) == set()
    assert list(place.iterdir()) == []


def without_namespaces() -> str:
    """The cage as it is on a system that refuses it namespaces."""
    text = code.CAGE.read_text()
    assert "    # without a user of its own" in text
    return text.replace("    # without a user of its own", "    return False\n    #")


BOMB = """
import os, sys, time
sys.stdin.readline()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("apart", [True, False], ids=["with namespaces", "without"])
def test_the_cage_ends_all_that_came_of_an_answer(apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what has left its session, were an answer to get around the guard."""
    bomb, cage = tmp_path / "bomb.py", tmp_path / "cage.py"
    bomb.write_text(BOMB)
    cage.write_text(code.CAGE.read_text() if apart else without_namespaces())
    monkeypatch.setattr(code, "RUNNER", bomb)
    monkeypatch.setattr(code, "CAGE", cage)
    assert run("", [], Limits(1, 256)) == {}
    assert processes(place) == set()


def test_without_namespaces_the_verdicts_are_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cage = tmp_path / "cage.py"
    cage.write_text(without_namespaces())
    monkeypatch.setattr(code, "CAGE", cage)
    assert run("", [], LIMITS)["apart"] is False
    assert [paid(answer) for answer in (SQUARE, WRONG["fork bomb"], WRONG["reads /etc/passwd"])] == [1, 0, 0]
    assert processes(place) == set()


def test_the_system_keeps_files_away_where_python_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock holds for a program without the guard."""
    if not run("", [], LIMITS)["closed"]:
        pytest.skip("this system has no Landlock")
    secret, runner = tmp_path / "secret", tmp_path / "runner.py"
    secret.write_text("4")
    runner.write_text(
        "import json, os, sys\nsys.stdin.readline()\nfound = []\n"
        f"for path, mode in (({str(secret)!r}, 'r'), ('own', 'w'), ({str(runner)!r}, 'a')):\n"
        "    os.chdir(sys.argv[1])\n"
        "    try:\n        open(path, mode).close()\n        found.append('open')\n"
        "    except PermissionError:\n        found.append('refused')\n"
        "os.write(int(sys.argv[2]), json.dumps({'values': found}).encode() + b'\\n')\n"
    )
    monkeypatch.setattr(code, "RUNNER", runner)
    assert run("", [], LIMITS)["values"] == ["refused", "open", "refused"]


def test_the_network_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not run("", [], LIMITS)["apart"]:
        pytest.skip("this system allows no namespaces")
    import socket

    runner = tmp_path / "runner.py"
    with socket.create_server(("127.0.0.1", 0)) as server:
        runner.write_text(
            "import json, os, socket, sys\nsys.stdin.readline()\n"
            f"try:\n    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)\n    said = 'reached'\n"
            "except OSError:\n    said = 'cut off'\n"
            "os.write(int(sys.argv[2]), json.dumps({'values': [said]}).encode() + b'\\n')\n"
        )
        monkeypatch.setattr(code, "RUNNER", runner)
        assert run("", [], LIMITS)["values"] == ["cut off"]


def test_a_cage_ends_with_the_run_that_opened_it(place: Path) -> None:
    program = "from finetune.rewards.code import *\nrun('while True: pass', [], Limits(60, 256))"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(code.CAGE.parents[2]), "TMPDIR": str(place)},
    )
    until = time.monotonic() + 30
    while not any("runner.py" in one for one in processes(place)) and time.monotonic() < until:
        time.sleep(0.02)
    assert any("runner.py" in one for one in processes(place))
    child.send_signal(signal.SIGKILL)
    child.wait()
    until = time.monotonic() + 10
    while processes(place) and time.monotonic() < until:
        time.sleep(0.02)
    assert processes(place) == set()


def test_a_folder_that_is_nested_deeply_harms_nobody(place: Path) -> None:
    answer = "import os\nos.makedirs('/'.join('a' * 60))\nfor at in range(1, 1900):\n    os.mkdir('/'.join('b' * at))\n"
    assert paid(answer + SQUARE) == 0
    assert list(place.iterdir()) == []


def test_an_answer_knows_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "1")
    tests = [{"call": "seen()", "expected": False}]
    assert paid("import os\ndef seen():\n    return 'SECRET_KEY' in os.environ", tests) == 1


def test_the_last_block_of_python_is_the_code() -> None:
    assert written_code("```bash\nls\n```\n```python\na = 1\n```\n```\nb = 2\n```\ntext") == "b = 2"
    assert written_code("```python\na = 1\n```\n```python\nb = 2") == "a = 1"
    assert written_code("```py\na = '\x0c'\n```") == "a = '\x0c'"
    assert written_code("~~~\n  ```python\n  a = 1\n  ```") == "  a = 1"
    assert written_code("```json\n{}\n```\nno python") == "```json\n{}\n```\nno python"


@pytest.mark.parametrize(
    ("tests", "answer"),
    [
        ("assert f(2) == 4\nassert f(3) == 9", SQUARE),
        (["assert set(f(3)) == {0, 1, 2}", "assert sorted(f(2)) == [0, 1]"], "def f(n): return list(range(n))"),
        (["assert f(1) == (1, 2)", "assert f(1) != [1, 2]"], "def f(n): return (n, n + 1)"),
        (["assert f() is None", "assert not f()"], "def f(): pass"),
        (["assert f('a')", "assert f('b') is False"], "def f(x): return x == 'a'"),
        (["assert f(2) == f(-2)", "assert 3 < f(2) <= 4 and f(0) == 0"], SQUARE),
        (
            ["assert Stack([1]).top() == 1"],
            "class Stack:\n def __init__(self, x): self.x = x\n def top(self): return self.x[-1]",
        ),
        (["assert f()[0]['a'] == {1: 'x'}"], "def f(): return [{'a': {1: 'x'}}]"),
        (["assert math.isclose(f(), 3.14, abs_tol=0.01)"], "def f(): return 3.141"),
        ([{"call": "f(1)", "expected": [1, {"a": None}]}], "def f(n): return (n, {'a': None})"),
        ('[{"call": "f(2)", "expected": 4}]', SQUARE),
    ],
)
def test_tests_of_many_forms_are_understood(tests: object, answer: str) -> None:
    assert paid(answer, tests) == 1
    assert paid("def f(*given): return 'no'\nclass Stack: pass", tests) == 0


def test_json_tells_true_from_one() -> None:
    assert paid("def f(): return True", [{"call": "f()", "expected": 1}]) == 0
    assert paid("def f(): return 1.0", [{"call": "f()", "expected": 1}]) == 1


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ([], "holds no tests"),
        (None, "holds no tests"),
        ([3], "holds int"),
        (["x = f(2)\nassert x == 4"], "other lines than asserts"),
        (["assert sum([1, 2]) == 3"], "calls nothing of the answer"),
        (["assert f(2).startswith('a')"], "not worked out"),
        (["assert isinstance(f(2), int)"], "not worked out"),
        (["assert all(x for x in f(2))"], "not worked out"),
        (["assert f(2) == 2 ** 99"], "not worked out"),
        (["assert f("], "no Python"),
        ([{"call": "f(", "expected": 1}], "no Python"),
        ([{"call": "f()", "want": 1}], "not call and expected"),
        ('{"call"', "neither asserts nor JSON"),
    ],
)
def test_tests_that_cannot_be_trusted_are_refused(tests: object, says: str) -> None:
    with pytest.raises(BadTest, match=says):
        read_cases(tests)
