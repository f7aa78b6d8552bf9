"""State first, words later: a log or an observer that fails whenever it is used changes nothing.

Each scene makes a listener say something. It is played with a log that fails at every
call, in every way that a log can, and with an observer that does: its connections are
closed, its counts are right, its deadlines are kept, and it closes, as without.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import pytest

from silly import _repeats
from silly import task as forking
from silly import time as timing
from silly._live import Live
from silly._logger import Logger
from silly._repeats import OTHER, QUIET_PERIOD
from silly.errors import EndOfStream
from silly.net import sweep, tally, tcp
from silly.net.observer import Ending
from silly.net.tally import MAX_REASONS, Tally
from silly.net.tcp import Conn, Limits, Listener, ListenerState
from silly.systemd import Service
from silly.testing import run_virtual

ANY: Final = "127.0.0.1:0"


class Odd(BaseException):
    """What nobody expects: no `Exception`."""


ERRORS: Final = [
    ConnectionRefusedError(111, "the log server is down"),
    Odd(),
    asyncio.CancelledError(),
]


class Broken:
    """A log or an observer that raises at every call, and counts them."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def fail(self, *_: object) -> Any:
        self.calls += 1
        raise self.error

    opened = closed = fail  # an observer


@contextlib.contextmanager
def broken_log(part: str, error: BaseException) -> Iterator[Broken]:
    """Have the log of this package fail in *part*."""
    broken = Broken(error)
    handler = logging.Handler()
    logger = logging.getLogger("silly")
    names = [name for name in logging.root.manager.loggerDict if name.startswith("silly.")]
    if part == "filter of the logger":
        for name in names:
            logging.getLogger(name).addFilter(broken.fail)
    elif part == "emit":
        handler.emit = broken.fail  # type: ignore[method-assign, assignment]
    elif part == "handle":
        handler.handle = broken.fail  # type: ignore[method-assign, assignment]
    else:
        handler.addFilter(broken.fail)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield broken
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        for name in names:
            logging.getLogger(name).removeFilter(broken.fail)


# -------------------------------------------------------------------------- scenes


class Stage:
    """What a scene plays on: a listener, and clients."""

    def __init__(self, observer: Broken | None) -> None:
        self.observer = observer
        self.listener: Listener
        self.clients: list[Conn] = []

    def listen(self, handler: tcp.Handler, **limits: Any) -> Listener:
        self.listener = tcp.listen(
            ANY,
            handler,
            limits=Limits(**{"exempt_networks": (), **limits}),
            access_log=True,
            observer=self.observer,
        )
        return self.listener

    async def client(self, data: bytes = b"") -> Conn:
        conn = await tcp.connect(self.listener.local_addr)
        self.clients.append(conn)
        conn.write(data)
        return conn

    async def gone(self) -> None:
        """Wait until the server has ended all connections."""
        await until(lambda: self.listener.connections == 0)
        assert not self.listener._handling
        assert not self.listener._lingering


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(1000):  # virtual seconds
        pause = 0.001
        while not condition():
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1)


async def echo(conn: Conn) -> None:
    async for line in conn:
        if line == b"crash\n":
            raise ValueError("a defect")
        await conn.write(line)


async def crash(stage: Stage) -> None:
    stage.listen(echo)
    for _ in range(3):
        client = await stage.client(b"crash\n")
        with pytest.raises((EndOfStream, ConnectionResetError)):
            await client.read()
    await stage.gone()
    assert stage.listener.stats.handler_errors_by_type == {"ValueError": 3}
    await asyncio.sleep(2 * QUIET_PERIOD)  # the summary


async def normal_end(stage: Stage) -> None:
    async def reads(conn: Conn) -> None:
        await conn.read(b"\n")

    stage.listen(reads)
    (await stage.client(b"unfinished")).close_write()
    await stage.gone()
    assert stage.listener.stats.handler_errors == 0


async def too_long_a_line(stage: Stage) -> None:
    stage.listen(echo, read_limit=10)
    await stage.client(b"x" * 1000)
    await stage.gone()
    assert stage.listener.stats.ended == {"read_limit": 1}


async def silent_clients(stage: Stage) -> None:
    stage.listen(echo, first_byte_timeout=5)
    for _ in range(2):  # the second time after the first words
        for _ in range(5):
            await stage.client()
        await stage.gone()
        await asyncio.sleep(2 * QUIET_PERIOD)
    assert stage.listener.stats.ended == {"first_byte_timeout": 10}
    assert stage.listener._sweep._handle is None or not stage.listener._handling


async def idle_clients(stage: Stage) -> None:
    stage.listen(echo, idle_timeout=5)
    for _ in range(3):
        client = await stage.client(b"hello\n")
        assert await client.read(b"\n") == b"hello\n"
    await stage.gone()
    assert stage.listener.stats.ended == {"idle_timeout": 3}


async def unfinished_lines(stage: Stage) -> None:
    stage.listen(echo, read_deadline=5)
    for _ in range(3):
        await stage.client(b"unfinished")
    await stage.gone()
    assert stage.listener.stats.ended == {"read_deadline": 3}


async def lingering(stage: Stage) -> None:
    async def floods(conn: Conn) -> None:
        conn.write(b"x" * 12_000_000)

    stage.listen(floods, linger=5)
    client = await stage.client()
    client.read_limit = 1000
    await client.read(1)
    await stage.gone()
    assert stage.listener.stats.ended == {"linger": 1}


async def refusals(stage: Stage) -> None:
    stage.listen(echo, max_connections=3, max_per_client=2)
    for _ in range(2):
        client = await stage.client(b"hello\n")
        assert await client.read(b"\n") == b"hello\n"
    for _ in range(5):
        with pytest.raises((EndOfStream, OSError)):
            await (await stage.client()).read()
    assert stage.listener.stats.refused == {"max_per_client": 5}
    assert stage.listener.connections == 2
    await asyncio.sleep(2 * QUIET_PERIOD)  # the summary


async def stalls(stage: Stage) -> None:
    listener = stage.listen(echo)
    for _ in range(3):
        listener._gate.stalled(errno.ENOMEM, 1.0)
        listener._gate.shed(b"\x7f\0\0\1")
    assert listener.stats.accept_stalls == 3
    assert listener.stats.refused == {"descriptors": 3}
    client = await stage.client(b"hello\n")
    assert await client.read(b"\n") == b"hello\n"


async def a_handler_that_goes_on(stage: Stage) -> None:
    leave = asyncio.Event()

    async def stubborn(_conn: Conn) -> None:
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    stage.listen(stubborn)
    client = await stage.client(b"x")
    await until(lambda: stage.listener.connections == 1)
    asyncio.get_running_loop().call_later(100, leave.set)
    await stage.listener.close(1)
    with pytest.raises((EndOfStream, OSError)):
        await client.read()
    await leave.wait()


SCENES: Final[list[Callable[[Stage], Coroutine[Any, Any, None]]]] = [
    crash,
    normal_end,
    too_long_a_line,
    silent_clients,
    idle_clients,
    unfinished_lines,
    lingering,
    refusals,
    stalls,
    a_handler_that_goes_on,
]


async def play(
    scene: Callable[[Stage], Coroutine[Any, Any, None]], observer: Broken | None
) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    stage = Stage(observer)
    await scene(stage)
    for client in stage.clients:
        client.abort()
        await client.wait_closed()
    listener = stage.listener
    async with asyncio.timeout(100):
        await listener.close(1)
    await until(lambda: not listener._handling)
    assert listener.state is ListenerState.CLOSED
    assert listener.connections == 0
    assert not listener._observed
    assert not listener._gate._clients
    assert listener not in Live.of(loop).listeners
    assert not complaints


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("emit", ERRORS[0]),
        ("handle", ERRORS[1]),
        ("filter of the handler", ERRORS[2]),
        ("filter of the logger", ERRORS[1]),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_with_a_log_that_fails(
    scene: Callable[[Stage], Coroutine[Any, Any, None]], part: str, error: BaseException
) -> None:
    with broken_log(part, error) as broken:
        run_virtual(play(scene, None))
    assert broken.calls > 0


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_with_an_observer_that_fails(
    scene: Callable[[Stage], Coroutine[Any, Any, None]],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = Broken(error)
    run_virtual(play(scene, observer))
    assert observer.calls > 0
    failures = [message for message in caplog.messages if "observer Broken" in message]
    assert 1 <= len(failures) <= 8  # however many connections there were


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_with_both(scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    with broken_log("emit", ERRORS[0]):
        run_virtual(play(scene, Broken(ERRORS[1])))


# ------------------------------------------------------------- when an observer is told


async def test_an_observer_is_told_when_all_is_done_and_counted() -> None:
    seen: list[tuple[int, int, int, dict[str, int]]] = []

    class Looks:
        def opened(self, conn: Conn, listener: Listener) -> None: ...

        def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
            assert ending.how == "handler_error"
            stats = listener.stats
            seen.append((stats.connections, len(listener._handling), len(listener._observed), {}))
            seen[-1][3].update(stats.handler_errors_by_type)

    async with tcp.listen(ANY, echo, observer=Looks()) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"crash\n")
            with pytest.raises((EndOfStream, ConnectionResetError)):
                await conn.read()
        while not seen:
            await asyncio.sleep(0)
    assert seen == [(0, 0, 0, {"ValueError": 1})]


# ------------------------------------------------------------------------ the sweep


def test_a_look_back_that_fails_does_not_end_the_sweep() -> None:
    class Fails:
        looks = 0

        def look(self, _now: float) -> bool:
            self.looks += 1
            raise Odd

    async def main() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        conns = [Fails() for _ in range(3)]
        swept = sweep.Sweep(loop, lambda: list(conns), Fails.look)
        swept.start(1)
        while min(conn.looks for conn in conns) < 5:
            await asyncio.sleep(1)
        swept.stop()
        assert len(complaints) >= 15

    run_virtual(main())


# ------------------------------------------------------- crashes are logged at a bounded rate


async def test_a_flood_of_crashes_is_counted_and_not_all_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with tcp.listen(ANY, echo) as listener:
        for _ in range(60):
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"crash\n")
                with pytest.raises((EndOfStream, ConnectionResetError)):
                    await conn.read()
        assert listener.stats.handler_errors_by_type == {"ValueError": 60}
    records = [record for record in caplog.records if record.name == "silly.net"]
    assert records[0].exc_info
    assert len(records) <= 20  # two in 5 seconds
    whole = sum(record.exc_info is not None for record in records)
    more = [re.search(r"failed (\d+) more times: ValueError", r.getMessage()) for r in records]
    assert whole + sum(int(found[1]) for found in more if found) == 60


async def test_types_that_a_peer_makes_up_are_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_REASONS", 10)
    monkeypatch.setattr(_repeats, "MAX_KINDS", 10)

    async def names_its_error(conn: Conn) -> None:
        name = (await conn.read(b"\n")).decode("latin-1")
        raise type(name, (Exception,), {})

    async with tcp.listen(ANY, names_its_error) as listener:
        for number in range(15):
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"\x1b[2J%d\n" % number)
                with pytest.raises((EndOfStream, ConnectionResetError)):
                    await conn.read()
        by_type = listener.stats.handler_errors_by_type
        assert len(by_type) == 11
        assert by_type[OTHER] == 5
        assert by_type["\\x1b[2J7\\x0a"] == 1
        assert listener.stats.handler_errors == 15
    logged = [record for record in caplog.records if record.name == "silly.net"]
    assert len(logged) == 12  # the first of the others, and how many more
    assert "\x1b" not in caplog.text


def test_a_tally_keeps_no_timer_when_there_is_nothing_to_say() -> None:
    async def main() -> None:
        said: list[tuple[str, int]] = []
        counts = Tally(asyncio.get_running_loop(), lambda *words: said.append(words))
        for number in range(1000):
            counts.add(f"reason {number}")
        await asyncio.sleep(3 * QUIET_PERIOD)
        assert said == [(OTHER, 1000 - MAX_REASONS - 1)]
        assert not counts._timers
        assert not counts._unlogged

    run_virtual(main())


async def test_each_traceback_is_logged_once_and_its_repetitions_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crashes(conn: Conn) -> None:
        if await conn.read(b"\n") == b"one\n":
            raise ValueError("the first place")
        raise ValueError("the second place")

    async with tcp.listen(ANY, crashes) as listener:
        for line in (b"one\n", b"two\n") * 3:
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(line)
                with pytest.raises((EndOfStream, ConnectionResetError)):
                    await conn.read()
        assert listener.stats.handler_errors_by_type == {"ValueError": 6}
    records = [record for record in caplog.records if record.name == "silly.net"]
    whole = [str(record.exc_info[1]) for record in records if record.exc_info]
    assert whole[:2] == ["the first place", "the second place"]
    counted: dict[str, int] = {}
    for record in records:
        if found := re.search(
            r"handler \S+ failed (\d+) more times?: ValueError at (\S+:\d+ in crashes)",
            record.getMessage(),
        ):
            counted[found[2]] = counted.get(found[2], 0) + int(found[1])
    assert len(whole) + sum(counted.values()) == 6
    assert len(counted) == 2


def test_forked_tasks_and_timers_that_fail_alike_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise ValueError("a defect")

    async def fails_in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    def fails_at_once() -> None:
        raise ValueError("a defect")

    async def main() -> None:
        for _ in range(100):
            for work in (fails, fails_in_a_group):
                forking.fork(work)
            timing.after(0, fails_at_once)
        await asyncio.sleep(3 * QUIET_PERIOD)
        for _ in range(2):
            forking.fork(fails)
        await asyncio.sleep(0)

    run_virtual(main())
    assert [record.exc_info is not None for record in caplog.records] == [
        True, True, True, False, False, False, True, False,
    ]  # fmt: skip
    said = [record.getMessage() for record in caplog.records if not record.exc_info]
    place = rf"ValueError at {re.escape(__file__)}:\d+ in fails"
    for pattern in (
        rf"99 more times: forked task failed: {place}",
        rf"99 more times: forked task failed: ExceptionGroup at .* \({place}\)",
        rf"99 more times: timer call failed: {place}_at_once",
        rf"1 more time: forked task failed: {place}",  # said when the loop was closed
    ):
        assert sum(re.fullmatch(pattern, text) is not None for text in said) == 1


# ------------------------------------------------------------------ what else has a log


def test_tasks_timers_and_news_with_a_log_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> None:
        raise ValueError("a defect")

    def fails_at_once() -> None:
        raise ValueError("a defect")

    def nobody_reads(*_: str) -> bool:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        monkeypatch.setattr("silly.systemd.notify", nobody_reads)
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        service = Service(loop)
        service.ready()
        service.stopping()
        forking.fork(fails)
        timing.after(1, fails_at_once)
        await asyncio.wait_for(Live.of(loop).wait_empty(), 100)
        assert service._timer is not None
        assert service._timer.when() > loop.time() - 1
        service.ended()
        assert not complaints

    with broken_log("emit", Odd()) as broken:
        run_virtual(main())
    assert broken.calls >= 5


def test_a_log_that_fails_is_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger("silly.test")
    with broken_log("emit", ERRORS[0]):
        for _ in range(10):
            logger.error("words")
    told = capfd.readouterr().err
    assert told.count("a log handler of 'silly.test' failed") == 1
    assert told.count("the log server is down") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_is_to_end_the_program_comes_through(error: BaseException) -> None:
    with broken_log("emit", error), pytest.raises(type(error)):
        Logger("silly.test").error("words")


def test_an_argument_that_cannot_be_shown_takes_nothing_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shy:
        def __str__(self) -> str:
            raise Odd

        __repr__ = __str__

    Logger("silly.test").error("%s: %r", "peer", Shy())
    (message,) = caplog.messages
    assert message.startswith("peer: <Shy")


# ------------------------------------------------------------- what ends the program


@pytest.mark.parametrize("method", ["opened", "closed"])
def test_an_observer_that_ends_the_program_leaves_nothing_half_done(method: str) -> None:
    """Whether it does so in the middle of accepting, or of a drain."""

    class Leaves:
        def opened(self, *_: object) -> None:
            if method == "opened":
                raise SystemExit(7)

        def closed(self, *_: object) -> None:
            if method == "closed":
                raise SystemExit(7)

    loop = asyncio.new_event_loop()
    exits: list[object] = []

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        """Run the loop as somebody who goes on after SystemExit."""
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except SystemExit as leave:
                exits.append(leave.code)
        return task.result()

    async def begin() -> tcp.Listener:
        return tcp.listen(ANY, echo, observer=Leaves())

    async def rest(listener: tcp.Listener) -> None:
        clients = [await tcp.connect(listener.local_addr) for _ in range(3)]
        for client in clients:
            client.write(b"x\n")
            assert await client.read(b"\n", timeout=10) == b"x\n"
        await listener.close(0)
        assert listener.connections == 0
        assert listener.state == "closed"
        for client in clients:
            client.abort()

    listener = run(begin())
    run(rest(listener))
    run(asyncio.sleep(0))
    assert exits == [7, 7, 7]
    loop.close()
