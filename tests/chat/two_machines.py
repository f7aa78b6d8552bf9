"""Browsers on two machines chat through two servers and one broker.

    python -m tests.chat.two_machines

Two network namespaces stand for the machines, a third for the one of the broker. It needs root,
ip(8), nats-server and chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.browser import browser
from tests.chat.harness import CHAT
from tests.workers.harness import Running

BROKER, MACHINES = "10.77.0.1", ("10.77.0.2", "10.77.0.3")


def _name(addr: str) -> str:
    return f"silly-{addr.rpartition('.')[2]}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Make the namespaces, with a bridge in that of the broker."""
    hub = _name(BROKER)
    with contextlib.ExitStack() as stack:
        for addr in (BROKER, *MACHINES):
            _ip("netns", "add", _name(addr))
            stack.callback(_ip, "netns", "del", _name(addr))
            _ip("-n", _name(addr), "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{BROKER}/24", "dev", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for addr in MACHINES:
            name = _name(addr)
            peer = ("peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "add", name, "type", "veth", *peer)
            _ip("-n", hub, "link", "set", name, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{addr}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield


async def talk(addr: str) -> None:
    """Chat from a browser on the machine *addr*, where this runs."""
    async with browser() as chromium:
        tab = await chromium.open(f"http://{addr}:8080/")
        await tab.until("document.getElementById('count').textContent === '2'")
        await tab.evaluate(f"send({{type: 'set_name', name: '{addr}'}})")
        await tab.says(f"You are now {addr}")
        other = next(each for each in MACHINES if each != addr)
        await tab.says(f"is now {other}")
        await tab.evaluate("document.getElementById('text').focus()")
        await tab.type(f"hello from {addr}")
        await tab.press("Enter")
        await tab.says(f"hello from {other}")
        print(f"{addr} has read: hello from {other}", flush=True)
        await asyncio.sleep(2)  # the other may still be reading


def main() -> None:
    """Run everything."""
    if len(sys.argv) > 1:
        asyncio.run(talk(sys.argv[1]))
        return
    with network(), contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as directory:

        def run(addr: str, *command: str) -> Running:
            inside = ["ip", "netns", "exec", _name(addr), *command]
            made = Running(inside, cwd=directory if command[0] == "nats-server" else None)
            stack.callback(made.end)
            return made

        run(BROKER, "nats-server", "--addr", BROKER).until("Server is ready")
        silly = (sys.executable, "-m", "silly")
        for addr in MACHINES:
            server = (str(CHAT / "server.py"), ":8080", f"nats://{BROKER}:4222")
            run(addr, *silly, *server).until("^Chat on ")
        talking = (sys.executable, "-m", "tests.chat.two_machines")
        people = [run(addr, *talking, addr) for addr in MACHINES]
        for each in people:
            print(each.until("(.* has read: .*)")[0])
            each.rest()


if __name__ == "__main__":
    main()
