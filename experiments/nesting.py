"""Measures how connections can be nested in asyncio's loop: ``python experiments/nesting.py``.

One echo, in plain Python, in three ways (`--serve WAY` is one server):

add_reader
    The loop watches every socket, and calls back for each of them.
nested
    Our sockets are in an epoll set of our own, whose descriptor the loop watches;
    one callback serves all that is ready in there, and looks again until nothing is.
selector
    The loop is given a selector of ours, which serves our sockets inside `select`
    and looks again until nothing is ready. The loop is called for its own only.
"""

from __future__ import annotations

import argparse
import asyncio
import select
import selectors
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import machine  # noqa: E402 - it is found there
import run  # noqa: E402

EVENTS = 256  # with as many served, the loop has its turn


class Echo:
    """One receive and one send for each event, whoever tells of it."""

    def __init__(self, watch: Callable[[int], object], forget: Callable[[int], object]) -> None:
        self.watch = watch
        self.forget = forget
        self.conns: dict[int, socket.socket] = {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch(self.listener.fileno())
        print(self.listener.getsockname()[1], flush=True)

    def ready(self, fd: int) -> None:
        conn = self.conns.get(fd)
        if conn is None:
            self.accept()
            return
        try:
            data = conn.recv(65536)
            conn.send(data)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.forget(fd)
            del self.conns[fd]
            conn.close()

    def accept(self) -> None:
        try:
            conn, _ = self.listener.accept()
        except BlockingIOError:
            return
        conn.setblocking(False)
        self.conns[conn.fileno()] = conn
        self.watch(conn.fileno())


def serve_with_add_reader() -> None:
    loop = asyncio.new_event_loop()
    echo = Echo(lambda fd: loop.add_reader(fd, lambda: echo.ready(fd)), loop.remove_reader)
    loop.run_forever()


def serve_nested() -> None:
    loop = asyncio.new_event_loop()
    epoll = select.epoll()
    echo = Echo(lambda fd: epoll.register(fd, select.EPOLLIN), epoll.unregister)

    def batch() -> None:
        served = 0
        while served < EVENTS and (events := epoll.poll(0, EVENTS)):
            served += len(events)
            for fd, _ in events:
                echo.ready(fd)

    loop.add_reader(epoll.fileno(), batch)
    loop.run_forever()


class ServingSelector(selectors.EpollSelector):
    """Gives the loop the events of its own descriptors, and serves all others."""

    def __init__(self) -> None:
        super().__init__()
        epoll = self._selector  # type: ignore[attr-defined]
        self.echo = Echo(lambda fd: epoll.register(fd, select.EPOLLIN), epoll.unregister)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        its_own: list[tuple[selectors.SelectorKey, int]] = []
        served = 0
        while served < EVENTS and (events := self._selector.poll(timeout, EVENTS)):  # type: ignore[attr-defined]
            for fd, event in events:
                key = self._fd_to_key.get(fd)  # type: ignore[attr-defined]
                if key is None:
                    self.echo.ready(fd)
                    served += 1
                else:
                    readable = selectors.EVENT_READ if event & ~select.EPOLLOUT else 0
                    writable = selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                    its_own.append((key, (readable | writable) & key.events))
            if its_own:
                break
            timeout = 0  # what we served may have called call_soon: do not wait
        return its_own


def serve_in_selector() -> None:
    asyncio.SelectorEventLoop(ServingSelector()).run_forever()


WAYS = {
    "add_reader": serve_with_add_reader,
    "nested": serve_nested,
    "selector": serve_in_selector,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", choices=WAYS, help="be that server, on a port that is printed")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; default: 0.5")
    parser.add_argument("--jobs", default="ping-pong 64", help="default: ping-pong 64")
    args = parser.parse_args()
    if args.serve:
        WAYS[args.serve]()
        return
    print(f"network: {machine.own_network()}")
    kinds = [run.Kind(way, (run.PY, __file__, "--serve", way)) for way in WAYS]
    jobs = [job for job in run.JOBS if run.chosen(job.name, args.jobs)]
    with tempfile.TemporaryDirectory() as built:
        run.compare(kinds, jobs, args.rounds, args.seconds, Path(built))


if __name__ == "__main__":
    main()
