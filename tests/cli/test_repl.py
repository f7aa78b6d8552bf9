"""`silly repl`: on a terminal as somebody types, and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory

from silly.cli.prompting import prompt
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.no_engine


KILL = "import os, signal\nos.kill(os.getpid(), signal."


def piped(text: str, *args: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "silly", "repl", *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )


def test_in_a_pipe_each_statement_runs_and_shows_its_value(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, contextvars\n"
        "var = contextvars.ContextVar('var')\n"
        "async def echo(conn):\n"
        "    async for line in conn: await conn.write(line)\n"
        "listener = tcp.listen('127.0.0.1:0', echo)\n"
        "await asyncio.sleep(0)\n"
        "print(sys.argv == [__file__], __name__)\n"
    )
    text = """
from __future__ import annotations
1 + 1
await asyncio.sleep(0, "slept")
async with tcp.connect(listener.local_addr) as conn:
    await conn.write(b"hello\\n")
    print(await conn.read(b"\\n"))
x: Nowhere = None
_ = var.set(3)
var.get()
silly.engine() in ("native", "portable")
def f():
    raise LookupError("shown with its line")

f()
print("not reached")
"""
    done = piped(text, str(tmp_path / "app.py"), tmp_path=tmp_path)
    assert done.stdout == "True __main__\n2\n'slept'\nb'hello\\n'\n3\nTrue\n"
    assert "LookupError: shown with its line" in done.stderr
    assert 'File "<stdin>", line 13, in f' in done.stderr
    assert "silly/" not in done.stderr  # no frames of the framework
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("", 0, ""),
        ("exit(3)", 3, ""),
        ("_ = asyncio.current_task().cancel(); await asyncio.sleep(9)", 1, "cancelled\n"),
        ("import logging; logging.getLogger('x').warning('logged')", 0, "logged\n"),
        ("exit('words')", 1, "words"),
        ("def", 1, "SyntaxError"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nawait asyncio.sleep(99)",
            130,
            "K",
        ),
        (f"{KILL}SIGINT)\nawait asyncio.sleep(99)", 130, "KeyboardInterrupt"),
        (f"{KILL}SIGTERM)\nawait asyncio.sleep(99)", 0, ""),
    ],
)
def test_exit_codes_in_a_pipe(text: str, code: int, error: str, tmp_path: Path) -> None:
    done = piped(text, tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr
    assert error or not done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = piped("", "nowhere.py", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "silly repl: cannot read 'nowhere.py'" in done.stderr


def test_on_a_terminal(tmp_path: Path) -> None:
    with Terminal("repl", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for("^>>>")
        terminal.type("await asyncio.sleep(0, 'slept')\r")
        terminal.wait_for("^'slept'")
        terminal.type("\rx = )\r")
        terminal.wait_for("^SyntaxError: ")
        terminal.type("if True:\r")
        terminal.wait_for(r"^\.\.\.")
        terminal.type("    print('in', 'side')\r\r")
        terminal.wait_for("^in side")
        terminal.type("print('waiting'); await asyncio.sleep(1000)\r")
        terminal.wait_for("^waiting")
        terminal.type("\x03")
        terminal.wait_for("^KeyboardInterrupt")
        terminal.type("1/0\r")
        terminal.wait_for("^ZeroDivisionError: division by zero")
        terminal.type("asyncio.get_runn\t")
        terminal.wait_for("asyncio.get_running_loop")
        terminal.type("\x03")
        terminal.type("print('spin'); all(iter(lambda: 1, 0))\r")
        terminal.wait_for("^spin")
        terminal.type("\x03")
        terminal.wait_for("KeyboardInterrupt\n(.*\n)*KeyboardInterrupt")
        terminal.type("l = tcp.listen('127.0.0.1:0', print); l\r")
        terminal.wait_for("<Listener 127.0.0.1")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    history = tmp_path / "silly" / "repl_history"
    assert "await asyncio.sleep(0, 'slept')" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_file_that_fails_ends_it_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0\n")
    done = piped("print('not reached')", str(tmp_path / "app.py"), tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZeroDivisionError" in done.stderr


def test_without_prompt_toolkit_one_line_says_what_to_install() -> None:
    without = "import sys\nsys.modules['prompt_toolkit'] = None\nfrom silly.cli import main\n"
    with Terminal(command=[sys.executable, "-c", f"{without}sys.exit(main(['repl']))"]) as terminal:
        assert terminal.end() == 1
        assert "silly repl: the prompt needs prompt_toolkit: " in terminal.text


def test_a_history_that_cannot_be_kept_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert isinstance(prompt._history(), InMemoryHistory)


def test_completion_survives_the_users_objects() -> None:
    class Odd:
        def __dir__(self) -> list[str]:
            raise ZeroDivisionError

    names = prompt._Names({"odd": Odd(), "even": 2})

    def found(text: str) -> list[str]:
        return [each.text for each in names.get_completions(Document(text), CompleteEvent())]

    assert found("eve") == ["even"]
    assert found("odd.x") == []
    assert found("even ") == []
