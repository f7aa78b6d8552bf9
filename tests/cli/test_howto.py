"""The pages about the tools: each terminal session is run, and its output compared.

A block that begins with ``$ silly echo`` is a server: it runs until the next one (or the
end of the page), and its output is compared then. Numbers may differ; any free port
replaces 9999.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import DEADLINE, SILLY, Terminal, environment, started
from tests.ports import held_port

pytestmark = pytest.mark.no_engine

HOWTO = Path(__file__).parent.parent.parent / "docs" / "howto"
NUMBER = r"(?:[\d.]+ (?:ns|µs|ms|s)|\d+)"
NUMBERS = re.compile(NUMBER)


def blocks(page: str) -> list[str]:
    return re.findall(r"```console\n(.*?)```", (HOWTO / page).read_text(), re.DOTALL)


def matches(expected: str, actual: str) -> None:
    """Compare, ignoring numbers."""
    pattern = NUMBER.join(re.escape(part) for part in NUMBERS.split(expected))
    assert re.fullmatch(pattern, actual), f"expected:\n{expected}\nfound:\n{actual}"


@contextlib.contextmanager
def server(block: str, port: int) -> Iterator[None]:
    command, _, expected = block.partition("\n")
    args = shlex.split(command.removeprefix("$ silly ").replace("9999", str(port)))
    if str(port) not in command and "127.0.0.1:0" not in args:
        args.append(f"127.0.0.1:{port}")
    with started(*args) as process:
        first = process.stdout.readline().decode()
        yield
        if "^C" in expected:
            process.send_signal(signal.SIGINT)
            rest = process.communicate()[0].decode()
            matches(expected.replace("^C\n", ""), first + rest)
        else:
            matches(expected, first)


def converse(block: str, port: int) -> None:
    """Type the text after each ``> `` when the prompt appears."""
    _, _, expected = block.partition("\n")
    with Terminal("connect", f":{port}") as terminal:
        for line in re.findall(r"^> (.*)", expected, re.MULTILINE):
            terminal.wait_for(r"^>\Z")
            terminal.wait_for_prompt()
            terminal.type(line + "\r")
            terminal.wait_for(f"^> {line}$")
        assert terminal.end() == 0
        matches(expected.rstrip(), terminal.text)


def run(block: str, port: int) -> None:
    """Run each line that begins with ``$ ``."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        shell = f'silly() {{ {shlex.join(SILLY)} "$@"; }}; {command.replace("9999", str(port))}'
        done = subprocess.run(
            ["bash", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=DEADLINE, check=False, env=environment(),
        )  # fmt: skip
        matches(expected, done.stdout.decode())


@pytest.mark.parametrize("page", ["echo.md", "connect.md"])
def test_the_page_matches_the_output(page: str) -> None:
    found = blocks(page)
    assert len(found) >= 5
    while found:
        block = found.pop(0)
        mine: list[str] = []
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(held_port())
            if block.startswith("$ silly echo"):
                while found and not found[0].startswith("$ silly echo"):
                    mine.append(found.pop(0))
                stack.enter_context(server(block, port))
            else:
                mine = [block]
            for one in mine:
                if "Connected to" in one:
                    converse(one, port)
                else:
                    run(one, port)


def test_pages_document_every_option() -> None:
    from silly.cli import connect, echo
    from silly.net.limits import Limits

    limits = {each.flag for each in Limits.fields()}
    for command, page in ((echo._echo, "echo.md"), (connect._connect, "connect.md")):
        text = (HOWTO / page).read_text()
        for param in command.params:
            for flag in (*param.opts, *param.secondary_opts):
                if flag.startswith("--") and flag not in limits | {"--half-close", "--grace"}:
                    assert flag in text, f"{page} does not tell about {flag}"
