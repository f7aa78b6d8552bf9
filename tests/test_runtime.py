"""`silly FILE.py` and `silly.run`, as used from a shell and from a program."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import silly
from silly import task, time
from silly._loop import signals
from silly.net import tcp
from silly.runtime import blocking, inspection
from tests.workers.harness import running, script

SERVER = """
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        if line == b"crash\\n":
            raise ZeroDivisionError("on purpose")
        await conn.write(line)

listener = tcp.listen("127.0.0.1:0", handler)
print(listener.local_addr, flush=True)
"""


def silly_command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "silly", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def serving(path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Run the script at *path* and connect to the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "silly", *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().strip().rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                yield process, sock
        finally:
            if process.poll() is None:
                process.kill()


def test_runs_until_nothing_keeps_it_running(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import sys
        from silly import task, time
        from silly.net import tcp

        async def echo(conn):
            async for line in conn:
                await conn.write(line)
            await listener.close()

        listener = tcp.listen("127.0.0.1:0", echo)

        async def client():
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"hello\\n")
                print(await conn.read(b"\\n"))

        await time.sleep(0)
        task.fork(client)
        time.after(0, print, "timer", __name__, sys.argv[1:])
        """,
    )
    done = silly_command(path, "--flag", "value")
    assert done.returncode == 0
    assert re.fullmatch(r".* INFO .* listening on \S+ .*\n", done.stderr)
    assert sorted(done.stdout.splitlines()) == [
        "b'hello\\n'",
        "timer __main__ ['--flag', 'value']",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--uvloop"]])
def test_signal_drains(tmp_path: Path, number: signal.Signals, options: list[str]) -> None:
    with serving(script(tmp_path, SERVER), *options) as (process, sock):
        sock.sendall(b"one\n")
        assert sock.recv(100) == b"one\n"
        process.send_signal(number)
        assert process.stderr is not None
        assert "listening on" in process.stderr.readline()
        assert "waiting up to 5 s for 1 connection" in process.stderr.readline()
        sock.sendall(b"two\n")  # the handler continues
        assert sock.recv(100) == b"two\n"
        sock.close()  # and returns
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_second_signal_forces(tmp_path: Path) -> None:
    with serving(script(tmp_path, SERVER), "--grace", "600") as (process, sock):
        sock.sendall(b"one\n")
        assert sock.recv(100) == b"one\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "listening on" in process.stderr.readline()
        assert "600 s" in process.stderr.readline()
        process.send_signal(signal.SIGINT)  # a second SIGTERM so soon would count as the first
        assert process.wait(10) == 0


def test_a_handler_crash_is_logged_and_does_not_end_the_program(tmp_path: Path) -> None:
    with serving(script(tmp_path, SERVER)) as (process, sock):
        peer = "{}:{}".format(*sock.getsockname())
        sock.sendall(b"crash\n")
        assert sock.recv(100) == b""
        with socket.create_connection(sock.getpeername(), timeout=10) as again:
            again.sendall(b"fine\n")
            assert again.recv(100) == b"fine\n"
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"{peer}: handler handler failed" in errors
    assert "ZeroDivisionError: on purpose" in errors


def test_exception_shows_only_the_users_frames(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from silly.net import tcp

        def start():
            tcp.listen("nonsense", print)

        start()
        """,
    )
    done = silly_command(path)
    assert done.returncode == 1
    assert re.findall(r'File "(.*?)", line (\d+)', done.stderr) == [
        (str(path), "7"),
        (str(path), "5"),
    ]
    assert "ValueError: addr 'nonsense' is not an address" in done.stderr
    whole = silly_command("--debug", path)
    assert "addr.py" in whole.stderr


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('said why')", 1, "said why\n"),
        ("import sys\nasync def f(): sys.exit(3)\nawait f()", 3, ""),
        ("x = (", 1, "SyntaxError"),
        ("raise KeyError('x')", 1, "KeyError: 'x'"),
        ("raise KeyboardInterrupt", 130, ""),  # as if Ctrl-C was pressed
        ("import asyncio\nasync def f(): pass\nasyncio.run(f())", 1, "running event loop"),
        ("import silly\nasync def f(): pass\nsilly.run(f())", 1, "await main()"),
    ],
)
def test_exit_codes(tmp_path: Path, text: str, code: int, error: str) -> None:
    done = silly_command(script(tmp_path, text))
    assert done.returncode == code, done.stderr
    assert error in done.stderr
    if not error:
        assert done.stderr == ""


@pytest.mark.no_engine
def test_unreadable_file_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.py", tmp_path):
        done = silly_command(path)
        assert done.returncode == 2
        assert re.fullmatch(r"silly: cannot read '.*': .*\n", done.stderr)


def test_version_help_and_usage() -> None:
    assert silly_command("--version").stdout.startswith(
        f"silly {silly.__version__} ({silly.engine()}"
    )
    assert "examples:" in silly_command("--help").stdout
    done = silly_command()
    assert done.returncode == 2
    assert "usage: silly" in done.stderr
    for args in (["--nonsense"], ["--grace", "soon", "x.py"]):
        done = silly_command(*args)
        assert done.returncode == 2
        assert re.fullmatch(r"silly: .* \(see: silly --help\)\n", done.stderr)


@pytest.mark.no_engine
def test_unknown_engine_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import silly"],
        env={"SILLY_ENGINE": "steam"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SILLY_ENGINE=steam is not an engine; the engines are native, portable" in done.stderr


# ------------------------------------------------------------------- what blocks the loop

BLOCKS = """
import asyncio, sys
from silly.net import tcp

def compute():
    sys.stdin.readline()

async def handler(conn):
    compute()
    await conn.write(b"done\\n")

async with tcp.listen("127.0.0.1:0", handler) as listener:
    async with tcp.connect(listener.local_addr) as conn:
        await conn.read()
        print("answered", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
"""


def test_blocking_code_is_reported(tmp_path: Path) -> None:
    path = script(tmp_path, BLOCKS)
    with running("-m", "silly", path, stdin=subprocess.PIPE) as program:
        told = program.until(r"WARNING .* the event loop is blocked: .*: (\S+ in \w+)")
        assert told == [f"{path}:6 in compute"]
        program.process.stdin.write("\n")
        program.process.stdin.flush()
        program.until("^answered")
        program.until(r"WARNING .* the event loop runs again; it was blocked for \d+\.\d s")
        program.process.stdin.close()
        program.rest()
        assert program.output.count("the event loop is blocked") == 1


# ------------------------------------------------------------------ silly.run


def test_a_loop_that_is_closed_is_not_watched() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    blocking._Watch(loop, threading.get_ident()).run()  # returns


def test_a_module_whose_own_import_fails_has_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing\n")
    done = subprocess.run(
        [sys.executable, "-m", "silly", "broken:main"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'broken.py", line 1' in done.stderr
    assert "ModuleNotFoundError: No module named 'nothing'" in done.stderr


def test_run_returns_the_result_after_tasks_and_timers() -> None:
    order = []

    async def main() -> int:
        async def later() -> None:
            await time.sleep(0.001)
            order.append("forked")

        task.fork(later)
        time.after(0, order.append, "timer")
        order.append("main")
        return 42

    assert silly.run(main()) == 42
    assert order == ["main", "timer", "forked"]


def test_run_in_another_thread() -> None:
    """Signals belong to the main thread."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    results = []

    async def main() -> int:
        await asyncio.sleep(0)
        return 42

    thread = threading.Thread(target=lambda: results.append(silly.run(main())))
    thread.start()
    thread.join()
    assert results == [42]
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers


def test_a_signal_stops_timers() -> None:
    timers: list[time.Timer] = []

    async def main() -> None:
        timers.append(time.after(600, print, "later"))
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(600)

    assert silly.run(main()) is None
    assert not timers[0].pending


def test_a_second_signal_interrupts_what_blocks_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "DEBOUNCE", 0)
    interrupted = []

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            interrupted.append(True)

    silly.run(main())
    assert interrupted == [True]


def test_a_report_that_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        signal.raise_signal(signal.SIGUSR1)
        return "unharmed"

    def fail(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(inspection, "report", fail)
    assert silly.run(main()) == "unharmed"
    assert [record.getMessage() for record in caplog.records] == ["the report failed"]


def test_a_handler_for_the_signal_of_reports_from_before_the_run_is_kept() -> None:
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))

    async def main() -> None:
        signal.raise_signal(signal.SIGUSR1)

    try:
        silly.run(main())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]


def test_run_closes_everything_and_raises_the_error_of_main() -> None:
    listeners = []

    async def main() -> None:
        listeners.append(tcp.listen("127.0.0.1:0", print))  # type: ignore[arg-type]
        await tcp.connect(listeners[0].local_addr)
        raise KeyError("x")

    with pytest.raises(KeyError):
        silly.run(main())
    assert not listeners[0].is_accepting


def test_what_a_program_left_open_is_freed_with_its_loop() -> None:
    async def echo(conn: tcp.Conn) -> None:
        async for line in conn:
            await conn.write(line)

    async def main() -> list[weakref.ref[object]]:
        listener = tcp.listen("127.0.0.1:0", echo)
        conn = await tcp.connect(listener.local_addr)
        await conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"
        return [weakref.ref(conn), weakref.ref(listener), weakref.ref(asyncio.get_running_loop())]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        refs = asyncio.run(main())
        gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_run_refuses_what_is_not_a_coroutine() -> None:
    async def main() -> None: ...

    with pytest.raises(TypeError, match=r"silly\.run\(main\(\)\)"):
        silly.run(main)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grace"):
        silly.run(main(), grace=-1)


# ---------------------------------------------------------------- task and time


async def test_forked_crash_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def crash() -> None:
        raise ZeroDivisionError

    forked = task.fork(crash)
    with pytest.raises(ZeroDivisionError):
        await forked
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_fork_takes_functions_and_coroutines() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    assert await task.fork(add, 1, 2) == 3
    assert await task.fork(add(1, 2)) == 3
    assert await task.fork(max, 1, 2) == 2
    with pytest.raises(TypeError, match=r"fork\(fn, \*args\) or fork\(fn\(\*args\)\)"):
        task.fork(add(1, 2), 3)  # type: ignore[call-overload]
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="fn"):
            task.fork(wrong)  # type: ignore[call-overload]


def test_tasks_and_timers_need_a_running_loop() -> None:
    async def nothing() -> None: ...

    for make in (
        lambda: task.fork(nothing),
        lambda: task.fork(nothing()),  # which is closed
        lambda: time.after(0, print),
    ):
        with pytest.raises(RuntimeError, match=r"needs a running event loop: start .* silly\.run"):
            make()
    with pytest.raises(TypeError, match=r"must be a Timer made by time\.after\(\), not int"):
        time.cancel(5)  # type: ignore[arg-type]


async def test_timers_fire_and_can_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    fired: asyncio.Queue[str] = asyncio.Queue()

    async def forked(what: str) -> None:
        await fired.put(what)

    cancelled = time.after(0, fired.put_nowait, "never")
    time.cancel(cancelled)
    time.cancel(cancelled)
    timer = time.after(0.001, fired.put_nowait, "function")
    time.after(0.002, forked, "coroutine")
    assert [await fired.get(), await fired.get()] == ["function", "coroutine"]
    assert not timer.pending
    time.cancel(timer)
    time.after(0, lambda: 1 / 0)
    while not caplog.records:
        await asyncio.sleep(0)
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="seconds"):
            _ = time.sleep(seconds)
    with pytest.raises(TypeError, match="seconds"):
        _ = time.sleep("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fn"):
        time.after(0, None)  # type: ignore[arg-type]
