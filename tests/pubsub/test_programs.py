"""A bus in programs: how it ends, on several workers and machines, without its library."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import silly
from silly import metrics, pubsub
from silly.testing import run_virtual
from tests.conftest import open_descriptors
from tests.ports import held_port
from tests.pubsub.brokers import running
from tests.workers.harness import Running

pytestmark = pytest.mark.no_engine

ROOMS = Path(__file__).parents[2] / "examples" / "rooms.py"
KINDS = ["memory", "redis", "nats"]
DEADLINE = 30.0  # seconds


# ------------------------------------------------------------------------ how it ends


@pytest.mark.parametrize("url", KINDS, indirect=True)
@pytest.mark.parametrize("run", [asyncio.run, silly.run])
def test_the_end_of_the_loop_ends_a_bus(url: str, run: object) -> None:
    ended = []

    async def read(bus: pubsub.Bus, ready: asyncio.Event) -> None:
        async with bus.subscribe("x") as messages:
            ready.set()
            try:
                async for _ in messages:
                    pass
            finally:
                ended.append(messages.pattern.text)

    async def main() -> pubsub.Bus:
        bus = await pubsub.connect(url)
        ready = asyncio.Event()
        main.task = asyncio.create_task(read(bus, ready))  # type: ignore[attr-defined]
        await ready.wait()
        await bus.publish("y", b"")
        return bus

    gc.collect()
    before = open_descriptors()
    bus = run(main())  # type: ignore[operator]
    assert bus.is_closed
    assert ended == ["x"]
    del bus
    gc.collect()
    assert not open_descriptors() - before


def test_a_bus_of_another_loop_is_refused() -> None:
    async def main() -> pubsub.Bus:
        bus: pubsub.Bus = await pubsub.connect()
        return bus

    bus = asyncio.run(main())
    with pytest.raises(RuntimeError, match="belongs to the event loop"):
        asyncio.run(bus.publish("x", b""))


def test_a_subscription_is_read_inside_async_with() -> None:
    async def main() -> None:
        bus = await pubsub.connect()
        async with bus:
            with pytest.raises(RuntimeError, match=r"inside `async with bus\.subscribe"):
                await anext(bus.subscribe("x"))
        assert bus.is_closed

    asyncio.run(main())


def test_publishing_does_not_starve_subscribers() -> None:
    async def main() -> None:
        async with pubsub.connect() as bus, bus.subscribe("x", max_messages=2) as messages:
            found = []

            async def read() -> None:
                found.extend([message async for message in messages])

            reading = asyncio.create_task(read())
            for number in range(100):
                await bus.publish("x", b"%d" % number)
            await bus.close()
            await reading
            assert [each.gap for each in found] == [0] * 100

    run_virtual(main())


# ------------------------------------------------------------------------- its URL, extras


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis", "the URL of a bus is memory:, redis://HOST:PORT"),
        ("http://localhost", "this one begins with 'http'"),
        ("memory:x", "memory:, with nothing after it"),
        ("redis:localhost", "this is not redis://HOST:PORT"),
        ("redis://", "has no host"),
        ("redis://user:secret@local host", "has no whitespace"),
        ("nats://localhost:port", "invalid"),
        ("nats://a:1,redis://b:2", "this is not nats://HOST:PORT"),
        ("redis://localhost/?secret=1", "invalid for redis-py"),
        ("rediss://localhost/?ssl_cert_reqs=maybe", "invalid for redis-py"),
    ],
)
def test_urls_that_are_not_valid(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        pubsub.connect(url)


def test_arguments_that_are_not_valid() -> None:
    with pytest.raises(TypeError, match="url must be a str"):
        pubsub.connect(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"limits must be a pubsub\.Limits"):
        pubsub.connect(limits=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tls must be True"):
        pubsub.connect("nats://localhost", tls="yes")  # type: ignore[arg-type]
    for url in ("memory:", "redis://localhost"):
        with pytest.raises(ValueError, match=r"^tls: "):
            pubsub.connect(url, tls=True)
    with pytest.raises(ValueError, match="tls= and ssl_cert_reqs contradict each other"):
        pubsub.connect("rediss://localhost/?ssl_cert_reqs=none", tls=True)
    for wrong in ({"max_messages": 0}, {"heartbeat": 0}, {"publish_timeout": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pubsub.Limits(**wrong)


@pytest.mark.parametrize(("name", "scheme"), [("redis", "redis"), ("nats", "nats-py")])
def test_a_missing_library_is_one_line(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"silly.pubsub.{name}", raising=False)
    for module in (name, f"{name}.errors", f"{name}.asyncio.connection"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{name}:// needs {scheme}: .* pip install {scheme}$"):
        pubsub.connect(f"{name}://localhost")


# ---------------------------------------------------------------------------- metrics


def test_metrics() -> None:
    async def main() -> None:
        async with pubsub.connect() as closed:
            await closed.publish("x", b"")
        bus = await pubsub.connect()
        async with bus.subscribe("x", max_messages=1):
            await bus.publish("x", b"12")
            await bus.publish("x", b"345")
            found = metrics.snapshot()["pubsub"]
        assert found == {
            "buses": 1,
            "connected": 1,
            "subscriptions": 1,
            "queued": 1,
            "queued_bytes": 3,
            "published": 3,
            "received": 2,
            "dropped": 1,
            "outages": 0,
            "unconfirmed": 0,
            "ignored": 0,
            "publish_errors": dict.fromkeys(bus.stats.publish_errors, 0),
        }
        gone = metrics.retired(metrics.snapshot())["pubsub"]
        assert (gone["published"], gone.get("buses")) == (3, None)

    asyncio.run(main())


# ---------------------------------------------------------------- workers and machines


class Client:
    """Someone in a room."""

    def __init__(self, addr: str, room: bytes = b"lobby") -> None:
        host, _, port = addr.rpartition(":")
        self._sock = socket.create_connection((host, int(port)), timeout=DEADLINE)
        self._file = self._sock.makefile("rb")
        assert self._file.read(12) == b"Which room? "
        self.say(room + b"\n")

    def say(self, line: bytes) -> None:
        self._sock.sendall(line)

    def hears(self, line: bytes) -> None:
        while self._file.readline() != line:
            pass

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@contextmanager
def rooms(*arguments: str, flags: tuple[str, ...] = ()) -> Iterator[tuple[Running, str]]:
    command = [sys.executable, "-m", "silly", "--log-level", "warning", *flags]
    stack = ExitStack()
    port = stack.enter_context(held_port())
    program = Running([*command, str(ROOMS), f"127.0.0.1:{port}", *arguments])
    try:
        workers = int(flags[1]) if flags else 1
        yield program, program.until(r"^Rooms on (\S+) ", times=workers)[0]
        program.stop()
    finally:
        program.end()
        stack.close()


def test_rooms_in_one_process() -> None:
    with rooms() as (program, addr), ExitStack() as stack:
        first, second, other = (Client(addr, room) for room in (b"lobby", b"lobby", b"attic"))
        for each in (first, second, other):
            stack.callback(each.close)
        other.hears(b"* %b came in\n" % "{}:{}".format(*other._sock.getsockname()).encode())
        second.hears(b"* %b came in\n" % "{}:{}".format(*second._sock.getsockname()).encode())
        first.say(b"hello\n")
        second.hears(b"hello\n")
        other.say(b"anybody?\n")
        assert other._file.readline() == b"anybody?\n"
        bad = Client(addr, b"no dots.")
        stack.callback(bad.close)
        bad.hears(b"The name of a room has letters and digits.\n")
    assert "Traceback" not in program.output


def test_rooms_on_workers_without_a_broker_warn_once() -> None:
    with rooms(flags=("--workers", "2")) as (program, _):
        pass
    assert program.output.count("each worker has its own") == 1


def test_rooms_on_workers_over_a_broker(tmp_path: Path) -> None:
    with (
        running("redis", tmp_path) as broker,
        rooms(broker.url, flags=("--workers", "2")) as (program, addr),
        ExitStack() as stack,
    ):
        clients = [Client(addr) for _ in range(8)]
        for each in clients:
            stack.callback(each.close)
            each.hears(b"* %b came in\n" % "{}:{}".format(*each._sock.getsockname()).encode())
        for number, each in enumerate(clients):
            each.say(b"hello from %d\n" % number)
        for each in clients:
            each.hears(b"hello from 7\n")
    assert "Traceback" not in program.output
