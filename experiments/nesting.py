"""Compare ways to nest connections in asyncio's loop: ``python experiments/nesting.py``.

The same echo server in plain Python, in three ways (``--serve WAY`` runs one):

add_reader
    The loop watches every socket and runs a callback for each ready one.
nested
    Our sockets are in our own epoll set, whose descriptor the loop watches. One
    callback serves all ready sockets and polls again until none is ready.
selector
    The loop uses our selector, which serves our sockets inside `select` and polls
    again until none is ready. It returns to the loop only for the loop's own
    descriptors.
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

import machine  # noqa: E402 - found through sys.path
import run  # noqa: E402
from comparison import chosen  # noqa: E402

EVENTS = 256  # serve this many, then let the loop run


class Echo:
    """The echo: one receive and one send per event, whatever reports the event."""

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
    """Passes the events of the loop's own descriptors to the loop; serves all others."""

    def __init__(self) -> None:
        super().__init__()
        epoll = self._selector  # type: ignore[attr-defined]
        self.echo = Echo(lambda fd: epoll.register(fd, select.EPOLLIN), epoll.unregister)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop_events: list[tuple[selectors.SelectorKey, int]] = []
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
                    loop_events.append((key, (readable | writable) & key.events))
            if loop_events:
                break
            timeout = 0  # do not wait: the served code may have used call_soon
        return loop_events


def serve_in_selector() -> None:
    asyncio.SelectorEventLoop(ServingSelector()).run_forever()


WAYS = {
    "add_reader": serve_with_add_reader,
    "nested": serve_nested,
    "selector": serve_in_selector,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", choices=WAYS, help="run this server and print its port")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; default: 0.5")
    parser.add_argument("--jobs", default="ping-pong 64", help="default: ping-pong 64")
    args = parser.parse_args()
    if args.serve:
        WAYS[args.serve]()
        return
    print(f"network: {machine.own_network()}")
    kinds = [run.Kind(way, (run.PY, __file__, "--serve", way)) for way in WAYS]
    jobs = [job for job in run.JOBS if chosen(job.name, args.jobs)]
    with tempfile.TemporaryDirectory() as built:
        run.compare(kinds, jobs, args.rounds, args.seconds, Path(built))


if __name__ == "__main__":
    main()
