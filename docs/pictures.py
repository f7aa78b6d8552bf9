"""Make pictures of terminals, such as that of ``silly echo``: ``python docs/pictures.py``.

A picture shows the screen of a real run on an emulated terminal of 80 columns and 24 rows.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.cli.terminal import Terminal  # noqa: E402


def screen(terminal: Terminal) -> list[Text]:
    """Return the rows of the screen, with their colours."""
    rows = []
    for row in range(terminal.rows):
        text = Text()
        for column in range(terminal.columns):
            cell = terminal.screen.buffer[row][column]
            style = "" if cell.fg == "default" else cell.fg.replace("brown", "yellow")
            text.append(cell.data, style=f"{style} bold" if cell.bold else style)
        text.rstrip()
        rows.append(text)
    while rows and not rows[-1].plain:
        rows.pop()
    return rows


def save(terminal: Terminal, name: str, title: str) -> None:
    """Write the screen of *terminal* as ``docs/howto/NAME.svg``."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=terminal.columns, file=nowhere, force_terminal=True)
        for row in screen(terminal):
            console.print(row, no_wrap=True)
        export(console, name, title)


def export(console: Console, name: str, title: str) -> None:
    """Save what *console* recorded as ``docs/howto/NAME.svg``."""
    svg = console.export_svg(title=title, unique_id=name)
    # Use the reader's own fonts, not one from the network.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / "howto" / f"{name}.svg").write_text(svg)


def load(addr: str, source: str, lines: int, stop: threading.Event) -> None:
    """Send about *lines* lines at a time from *source*, and read them back, until *stop* is set."""
    host, _, port = addr.rpartition(":")
    with socket.create_connection((host, int(port)), source_address=(source, 0)) as sock:
        turn = 0
        with sock.makefile("rb") as file:
            while not stop.wait(0.05):
                turn += 1
                for _ in range(lines * (2 + turn // 20 % 4)):
                    sock.sendall(b"x" * 63 + b"\n")
                    file.readline()


def echo_view() -> None:
    """Make a picture of the live view of ``silly echo``, with some clients."""
    stop = threading.Event()
    with Terminal("echo", "127.0.0.1:9999", "[::1]:9999", "--udp") as terminal:
        addr = terminal.wait_for(r"127\.0\.0\.1:\d+")
        clients = [
            threading.Thread(target=load, args=(addr, source, lines, stop))
            for source, lines in (
                ("127.0.0.1", 40), ("127.0.0.1", 25), ("127.0.0.2", 10), ("127.0.0.3", 3),
            )
        ]  # fmt: skip
        for client in clients:
            client.start()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            terminal._read(time.monotonic() + 0.1)
        terminal.wait_for(r"127\.0\.0\.3")  # a whole screen, not one that is being drawn
        save(terminal, "echo", "silly echo --udp 127.0.0.1:9999 [::1]:9999")
        stop.set()
        for client in clients:
            client.join()
        terminal.type("\x03")
        terminal.end()


if __name__ == "__main__":
    echo_view()
