"""A log or an observer that always fails changes nothing: state first, words later.

Each scenario makes a listener log something. It runs with a log that fails at every call,
in every way that a log can, and with an observer that does. Connections must be closed,
counts correct and deadlines kept, and the listener must close, as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import pytest

from silly import task as forking
from silly import time as timing
from silly._logs import repeats
from silly._logs.logger import Logger
from silly._logs.repeats import OTHER, QUIET_PERIOD
from silly._loop.live import Live
from silly.errors import EndOfStream
from silly.net import sweep, tally, tcp
from silly.net.course import Handler
from silly.net.observer import Ending
from silly.net.tally import MAX_REASONS, Tally
from silly.net.tcp import Conn, Limits, Listener, ListenerState
from silly.systemd import Service
from silly.testing import run_virtual

ANY: Final = "127.0.0.1:0"


class Odd(BaseException):
    """Not an `Exception`, as few programs expect."""


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
    """Make the log of this package fail in *part*."""
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


# ----------------------------------------------------------------------- scenarios


class Setup:
    """The listener and clients of a scenario."""

    def __init__(self, observer: Broken | None) -> None:
        self.observer = observer
        self.listener: Listener
        self.clients: list[Conn] = []

    def listen(self, handler: Handler, **limits: Any) -> Listener:
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
        assert not self.listener._course.handling
        assert not self.listener._course.lingering


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


async def crash(setup: Setup) -> None:
    setup.listen(echo)
    for _ in range(3):
        client = await setup.client(b"crash\n")
        with pytest.raises((EndOfStream, ConnectionResetError)):
            await client.read()
    await setup.gone()
    assert setup.listener.stats.handler_errors_by_type == {"ValueError": 3}
    await asyncio.sleep(2 * QUIET_PERIOD)  # the summary


async def normal_end(setup: Setup) -> None:
    async def reads(conn: Conn) -> None:
        await conn.read(b"\n")

    setup.listen(reads)
    (await setup.client(b"unfinished")).close_write()
    await setup.gone()
    assert setup.listener.stats.handler_errors == 0


async def too_long_a_line(setup: Setup) -> None:
    setup.listen(echo, read_limit=10)
    await setup.client(b"x" * 1000)
    await setup.gone()
    assert setup.listener.stats.ended == {"read_limit": 1}


async def silent_clients(setup: Setup) -> None:
    setup.listen(echo, first_byte_timeout=5)
    for _ in range(2):  # the second time after something was logged
        for _ in range(5):
            await setup.client()
        await setup.gone()
        await asyncio.sleep(2 * QUIET_PERIOD)
    assert setup.listener.stats.ended == {"first_byte_timeout": 10}
    assert setup.listener._course._sweep._handle is None or not setup.listener._course.handling


async def idle_clients(setup: Setup) -> None:
    setup.listen(echo, idle_timeout=5)
    for _ in range(3):
        client = await setup.client(b"hello\n")
        assert await client.read(b"\n") == b"hello\n"
    await setup.gone()
    assert setup.listener.stats.ended == {"idle_timeout": 3}


async def unfinished_lines(setup: Setup) -> None:
    setup.listen(echo, read_deadline=5)
    for _ in range(3):
        await setup.client(b"unfinished")
    await setup.gone()
    assert setup.listener.stats.ended == {"read_deadline": 3}


async def lingering(setup: Setup) -> None:
    async def floods(conn: Conn) -> None:
        conn.write(b"x" * 12_000_000)

    setup.listen(floods, linger=5)
    client = await setup.client()
    client.read_limit = 1000
    await client.read(1)
    await setup.gone()
    assert setup.listener.stats.ended == {"linger": 1}


async def refusals(setup: Setup) -> None:
    setup.listen(echo, max_connections=3, max_per_client=2)
    for _ in range(2):
        client = await setup.client(b"hello\n")
        assert await client.read(b"\n") == b"hello\n"
    for _ in range(5):
        with pytest.raises((EndOfStream, OSError)):
            await (await setup.client()).read()
    assert setup.listener.stats.refused == {"max_per_client": 5}
    assert setup.listener.connections == 2
    await asyncio.sleep(2 * QUIET_PERIOD)  # the summary


async def stalls(setup: Setup) -> None:
    listener = setup.listen(echo)
    for _ in range(3):
        listener._course.gate.stalled(errno.ENOMEM, 1.0)
        listener._course.gate.shed(b"\x7f\0\0\1")
    assert listener.stats.accept_stalls == 3
    assert listener.stats.refused == {"descriptors": 3}
    client = await setup.client(b"hello\n")
    assert await client.read(b"\n") == b"hello\n"


async def a_handler_that_ignores_cancellation(setup: Setup) -> None:
    leave = asyncio.Event()

    async def stubborn(_conn: Conn) -> None:
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    setup.listen(stubborn)
    client = await setup.client(b"x")
    await until(lambda: setup.listener.connections == 1)
    asyncio.get_running_loop().call_later(100, leave.set)
    await setup.listener.close(1)
    with pytest.raises((EndOfStream, OSError)):
        await client.read()
    await leave.wait()


SCENARIOS: Final[list[Callable[[Setup], Coroutine[Any, Any, None]]]] = [
    crash,
    normal_end,
    too_long_a_line,
    silent_clients,
    idle_clients,
    unfinished_lines,
    lingering,
    refusals,
    stalls,
    a_handler_that_ignores_cancellation,
]


async def run_scenario(
    scenario: Callable[[Setup], Coroutine[Any, Any, None]], observer: Broken | None
) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    setup = Setup(observer)
    await scenario(setup)
    for client in setup.clients:
        client.abort()
        await client.wait_closed()
    listener = setup.listener
    async with asyncio.timeout(100):
        await listener.close(1)
    await until(lambda: not listener._course.handling)
    assert listener.state is ListenerState.CLOSED
    assert listener.connections == 0
    assert not listener._course._observed
    assert not listener._course.gate._clients
    assert listener not in Live.of(loop).listeners
    assert not complaints


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
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
    scenario: Callable[[Setup], Coroutine[Any, Any, None]], part: str, error: BaseException
) -> None:
    with broken_log(part, error) as broken:
        run_virtual(run_scenario(scenario, None))
    assert broken.calls > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_with_an_observer_that_fails(
    scenario: Callable[[Setup], Coroutine[Any, Any, None]],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = Broken(error)
    run_virtual(run_scenario(scenario, observer))
    assert observer.calls > 0
    failures = [message for message in caplog.messages if "observer Broken" in message]
    assert 1 <= len(failures) <= 8  # regardless of the number of connections


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_both(scenario: Callable[[Setup], Coroutine[Any, Any, None]]) -> None:
    with broken_log("emit", ERRORS[0]):
        run_virtual(run_scenario(scenario, Broken(ERRORS[1])))


# -------------------------------------------------------- when observers are notified


async def test_observers_are_notified_after_everything_is_done_and_counted() -> None:
    seen: list[tuple[int, int, int, dict[str, int]]] = []

    class Looks:
        def opened(self, conn: Conn, listener: Listener) -> None: ...

        def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
            assert ending.how == "handler_error"
            stats = listener.stats
            seen.append(
                (
                    stats.connections,
                    len(listener._course.handling),
                    len(listener._course._observed),
                    {},
                )
            )
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


def test_a_check_that_fails_does_not_end_the_sweep() -> None:
    class Fails:
        checks = 0

        def check(self, _now: float) -> bool:
            self.checks += 1
            raise Odd

    async def main() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        conns = [Fails() for _ in range(3)]
        swept = sweep.Sweep(loop, lambda: list(conns), Fails.check)
        swept.start(1)
        while min(conn.checks for conn in conns) < 5:
            await asyncio.sleep(1)
        swept.stop()
        assert len(complaints) >= 15

    run_virtual(main())


def test_a_check_may_stop_the_sweep() -> None:
    async def main() -> None:
        checked = []

        def check(item: int, _now: float) -> bool:
            checked.append(item)
            swept.stop()
            return item == 1

        items = [1, 2]
        swept = sweep.Sweep(asyncio.get_running_loop(), lambda: list(items), check)
        swept.start(1)
        await asyncio.sleep(10)
        assert checked == [2, 1]  # all of a batch, and no other
        swept.start(1)
        await asyncio.sleep(10)
        assert checked == [2, 1] * 2

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
    assert len(records) <= 20  # two every 5 seconds
    whole = sum(record.exc_info is not None for record in records)
    more = [re.search(r"failed (\d+) more times?: ValueError", r.getMessage()) for r in records]
    assert whole + sum(int(found[1]) for found in more if found) == 60


async def test_the_number_of_exception_types_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_REASONS", 10)
    monkeypatch.setattr(repeats, "MAX_KINDS", 10)

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
    assert len(logged) == 12  # 10 types, the first of the others, and their summary
    assert "\x1b" not in caplog.text


def test_a_tally_has_no_timer_when_there_is_nothing_to_log() -> None:
    async def main() -> None:
        summaries: list[tuple[str, int]] = []
        counts = Tally(asyncio.get_running_loop(), lambda *summary: summaries.append(summary))
        for number in range(1000):
            counts.add(f"reason {number}")
        await asyncio.sleep(3 * QUIET_PERIOD)
        assert summaries == [(OTHER, 1000 - MAX_REASONS - 1)]
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
    with_traceback = [str(record.exc_info[1]) for record in records if record.exc_info]
    assert with_traceback[:2] == ["the first place", "the second place"]
    counted: dict[str, int] = {}
    for record in records:
        if found := re.search(
            r"handler \S+ failed (\d+) more times?: ValueError at (\S+:\d+ in crashes)",
            record.getMessage(),
        ):
            counted[found[2]] = counted.get(found[2], 0) + int(found[1])
    assert len(with_traceback) + sum(counted.values()) == 6
    assert len(counted) == 2


def test_repeated_crashes_of_forked_tasks_and_timers_are_counted(
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
    summaries = [record.getMessage() for record in caplog.records if not record.exc_info]
    place = rf"ValueError at {re.escape(__file__)}:\d+ in fails"
    for pattern in (
        rf"99 more times: forked task failed: {place}",
        rf"99 more times: forked task failed: ExceptionGroup at .* \({place}\)",
        rf"99 more times: timer call failed: {place}_at_once",
        rf"1 more time: forked task failed: {place}",  # logged when the loop was closed
    ):
        assert sum(re.fullmatch(pattern, text) is not None for text in summaries) == 1


# ------------------------------------------------------------------- other loggers


def test_tasks_timers_and_the_service_with_a_log_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_a_log_that_fails_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger("silly.test")
    with broken_log("emit", ERRORS[0]):
        for _ in range(10):
            logger.error("words")
    output = capfd.readouterr().err
    assert output.count("a log handler of 'silly.test' failed") == 1
    assert output.count("the log server is down") == 1


def test_a_log_that_fails_where_standard_error_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with broken_log("emit", ERRORS[0]) as broken:
        Logger("silly.test").error("words")
    assert broken.calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_exceptions_that_end_the_program_are_not_caught(error: BaseException) -> None:
    with broken_log("emit", error), pytest.raises(type(error)):
        Logger("silly.test").error("words")


def test_an_argument_that_cannot_be_formatted_does_not_lose_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shy:
        def __str__(self) -> str:
            raise Odd

        __repr__ = __str__

    Logger("silly.test").error("%s: %r", "peer", Shy())
    (message,) = caplog.messages
    assert message.startswith("peer: <Shy")


def test_ctrl_c_while_an_argument_is_formatted_ends_the_program() -> None:
    class Slow:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Logger("silly.test").error("%s", Slow())


# ------------------------------------------------------------- what ends the program


@pytest.mark.parametrize("method", ["opened", "closed"])
def test_an_observer_that_ends_the_program_leaves_no_inconsistent_state(method: str) -> None:
    """While accepting, and during a drain."""

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
        """Run the loop like a program that continues after SystemExit."""
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
