"""Make the pictures and the output in howto/load-testing.md: ``python docs/make_pictures.py``.

Arguments select what is made: ``terminal``, ``output``, ``report``, ``echo``, ``chat``. Run it on
an idle machine; otherwise, the figures are poor.

All of it is real: an echo server is started, ``silly bench`` loads it, the
live view is exported during the run, and chromium draws the report.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import chat_pictures
import pictures
from rich.console import Console

from silly.bench import session
from silly.bench.plan import Plan
from silly.bench.view import View

HERE = Path(__file__).parent
PAGE = HERE / "howto" / "load-testing.md"
ECHO = HERE.parent / "examples" / "echo.py"
WRONG = """
from silly.net import tcp

async def wrong(conn):
    number = 0
    async for line in conn:
        number += 1
        if number == 1000:
            continue
        await conn.write(line)

print("Listening on", tcp.listen("127.0.0.1:0", wrong).local_addr, flush=True)
"""


class Exported(View):
    """The live view, which exports a picture of itself after *seconds*."""

    def __init__(self, title: str, seconds: float) -> None:
        self._picture = Console(
            width=80, height=10, record=True, force_terminal=True, file=io.StringIO()
        )
        super().__init__(self._picture, title)
        self._when: float | None = seconds

    def tick(self, seconds: float) -> None:
        """Export, once."""
        super().tick(seconds)
        if self._when is not None and seconds > self._when:
            picture = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
            self._console = picture
            picture.print(self)
            pictures.export(picture, "terminal", "silly bench")
            self._when = None


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server and yield the address that it prints."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "silly", *command], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"\S+:\d+", server.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            server.terminate()


def bench(*arguments: str, folder: str | None = None) -> str:
    """Return what ``silly bench`` prints, run in *folder*."""
    done = subprocess.run(
        [sys.executable, "-m", "silly", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return done.stdout.strip("\n")


def put(page: str, what: str, output: str) -> str:
    """Return *page* with *output* in the block that is marked as the output of *what*."""
    start = f"<!-- output of: {what} -->\n```text\n"
    before, found, rest = page.partition(start)
    assert found, what
    return f"{before}{start}{output}\n```{rest.partition('```')[2]}"


def draw(report: Path, picture: Path, folder: str) -> None:
    """Have chromium draw *report*."""
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={folder}/profile", "--hide-scrollbars",
         "--virtual-time-budget=4000", "--window-size=1280,1350", f"--screenshot={picture}",
         report.as_uri()],
        capture_output=True, check=True,
    )  # fmt: skip


def terminal(addr: str, _: str) -> None:
    """Make the live view during a run."""
    plan = Plan(addr, connections=100, duration=10, warmup=1, interval=0.25)
    view = Exported(f"silly bench {addr}", 8)
    with view:
        session.run(plan, view, lambda: False)


def output(addr: str, folder: str) -> None:
    """Put what a run prints into the page."""
    page = PAGE.read_text()
    page = put(page, "silly bench", bench(addr, "-c", "100", "-t", "10s", "--warmup", "1s"))
    results = [f"{folder}/before.json", f"{folder}/after.json"]
    for path in results:
        bench(addr, "-c", "50", "-t", "5s", "--interval", "250ms", "--json", path)
    page = put(page, "silly bench compare", bench("compare", *results))
    wrong = Path(folder, "wrong.py")
    wrong.write_text(WRONG)
    with serving(str(wrong)) as bad:
        lines = bench(bad, "-c", "2", "-d", "4", "-n", "5000").splitlines()
    page = put(page, "a server that is wrong", "\n".join(lines[2 : lines.index("", 2)]))
    PAGE.write_text(page)


def report(addr: str, folder: str) -> None:
    """Make the picture of the report, if chromium is installed; retry disturbed runs."""
    name = "report.html"
    load = ("-c", "50", "--rate", "3000", "-t", "10s")
    for _ in range(5):
        if "warning:" not in bench(addr, *load, "--html", name, folder=folder):
            break
    if shutil.which("chromium"):
        draw(Path(folder, name), HERE / "howto" / "report.png", folder)


def echo(*_: str) -> None:
    """Make the live view of ``silly echo``."""
    pictures.echo_view()


def chat(*_: str) -> None:
    """Make the pictures of the chat."""
    asyncio.run(chat_pictures.make())


PARTS = {part.__name__: part for part in (terminal, output, report, echo, chat)}


def main() -> None:
    """Make the parts named in the arguments, or all."""
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder, serving(str(ECHO), "127.0.0.1:0") as addr:
            PARTS[name](addr, folder)


if __name__ == "__main__":
    main()
