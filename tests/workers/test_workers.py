"""Several workers and their supervisor, as an operator uses them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from silly.workers.fleet import BackOff
from tests.cli.terminal import DEADLINE, Terminal
from tests.ports import held_port
from tests.workers.harness import ECHO, Load, ask, dial, environment, running, script, who

LISTENING = r"listening \S+ \d+ (\S+)"

SUPERVISE = """
import logging, sys
import silly
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
sys.exit(silly.run_workers(sys.argv[1], sys.argv[2:], {options}))
"""


def api(**options: object) -> list[str]:
    """Return arguments for Python that call `silly.run_workers` with *options*."""
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return ["-c", SUPERVISE.format(options=text)]


def test_workers_share_one_chosen_port(tmp_path: Path) -> None:
    with running("-m", "silly", script(tmp_path), "--workers", "3") as silly:
        addrs = silly.until(LISTENING, times=3)
        assert len(set(addrs)) == 1
        assert re.findall(r"listening (\d)", silly.output).count("1") == 1
        silly.until("is ready", times=3 - silly.output.count("is ready"))
        answering: set[int] = set()
        while len(answering) < 3:  # the kernel distributes connections among all
            answering.add(who(addrs[0])[0])
        assert answering == {1, 2, 3}
        with held_port(int(addrs[0].rpartition(":")[2])):
            silly.stop()
            with pytest.raises(ConnectionRefusedError):
                dial(addrs[0])


@pytest.mark.no_engine
@pytest.mark.parametrize("options", [[], ["--uvloop"]])
def test_rolling_restarts_under_load_lose_no_connection(tmp_path: Path, options: list[str]) -> None:
    with running("-m", "silly", "--workers", "2", *options, script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        with Load(addr) as load:
            pids = {who(addr)[1] for _ in range(20)}
            for _ in range(3):
                load.more(20)
                silly.send(signal.SIGHUP)
                silly.until(": restarted$")
            load.more(20)
        assert load.failures == []
        assert not pids & {who(addr)[1] for _ in range(20)}
        silly.stop()


def test_a_killed_worker_loses_only_its_own_connections(tmp_path: Path) -> None:
    with running("-m", "silly", "--workers", "2", script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        held: dict[int, list[socket.socket]] = {}
        while len(held) < 2:
            sock = dial(addr)
            sock.sendall(b"who\n")
            held.setdefault(int(sock.recv(100).split()[1]), []).append(sock)
        killed, spared = held
        with Load(addr) as load:
            load.more(20)
            os.kill(killed, signal.SIGKILL)
            silly.until(rf"worker . \(pid {killed}\) was killed by SIGKILL; starting another")
            for sock in held[spared]:  # every other connection keeps answering
                sock.sendall(b"still\n")
                assert sock.recv(100) == b"still\n"
            assert ask(addr, b"again\n") == b"again\n"  # a client reconnects at once
            silly.until("is ready")
            load.more(20)
        for sock in held[killed]:
            with sock:
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(100) == b""
        for sock in held[spared]:
            sock.close()
        # The killed worker's connections are lost: at most one per client thread.
        assert len(load.failures) <= 4, load.failures
        assert not any("Refused" in failure for failure in load.failures), load.failures
        assert killed not in {who(addr)[1] for _ in range(20)}
        silly.stop()


def test_sockets_of_a_missing_worker_are_served_by_another(tmp_path: Path) -> None:
    text = """
        import pathlib
        seen = pathlib.Path(__file__).with_name("seen")
        if os.environ["SILLY_WORKER"] == "2":
            if seen.exists():
                sys.exit(3)
            seen.touch()
    """
    path = script(tmp_path, ECHO + textwrap.dedent(text))
    with running(*api(workers=2, back_off=1000.0, back_off_limit=1000.0), path) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        pids = dict(who(addr) for _ in range(40))
        os.kill(pids[2], signal.SIGKILL)
        silly.until("worker 2 .* was killed by SIGKILL; starting another in 1000 s")
        assert {who(addr)[0] for _ in range(40)} == {1}
        silly.send(signal.SIGHUP)  # tries at once and fails
        silly.until("worker 2 .* ended with exit code 3")
        silly.until("restart was abandoned")
        assert {who(addr)[0] for _ in range(40)} == {1}
        silly.stop()


@pytest.mark.no_engine
def test_a_crash_loop_backs_off_and_then_gives_up(tmp_path: Path) -> None:
    path = script(tmp_path, "import sys\nsys.exit(7)\n")
    with running(*api(workers=3, back_off=0.01, back_off_limit=0.02, give_up=4), path) as silly:
        silly.rest()
        assert silly.process.returncode == 7
        assert re.findall(r"worker 1 .* ended with exit code 7; (.*)", silly.output) == [
            "starting another in 0.01 s",
            "starting another in 0.02 s",
            "starting another in 0.02 s",
            "giving up: 4 workers died, and none was ever ready",
        ]
        assert silly.output.count("\n") == 4  # the other two were never started


@pytest.mark.no_engine
def test_the_back_off_doubles_up_to_its_limit_however_long_the_crash_loop() -> None:
    back_off = BackOff(0.5, 30.0)
    assert [back_off.delay(failures) for failures in range(4)] == [0, 0.5, 1, 2]
    assert back_off.delay(7) == back_off.delay(5000) == 30
    assert BackOff(0.0, 30.0).delay(5000) == 0


@pytest.mark.no_engine
def test_it_gives_up_a_worker_killed_before_it_was_ready(tmp_path: Path) -> None:
    path = script(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with running(*api(give_up=1), path) as silly:
        assert re.fullmatch(
            r"worker 1 \(pid \d+\) was killed by SIGKILL; giving up: it was never ready\n",
            silly.rest(),
        )
        assert silly.process.returncode == 1


@pytest.mark.no_engine
def test_workers_that_finish_are_not_restarted(tmp_path: Path) -> None:
    path = script(tmp_path, "import os\nprint('done', os.environ['SILLY_WORKER'])\n")
    with running("-m", "silly", "--workers", "2", path) as silly:
        output = silly.rest()
        assert silly.process.returncode == 0
    assert sorted(re.findall(r"^done (\d)$", output, re.MULTILINE)) == ["1", "2"]


@pytest.mark.no_engine
def test_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        for _ in range(2):  # the second time, the other socket would share the port
            with running(*api(give_up=1), script(tmp_path), addr) as silly:
                silly.rest()
                assert silly.process.returncode == 1
                assert "Address already in use; another program uses the port" in silly.output
                assert addr in silly.output
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def test_broken_program_does_not_replace_one_that_serves(tmp_path: Path) -> None:
    path = script(tmp_path)
    with running("-m", "silly", "--workers", "2", path) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        pids = {who(addr)[1] for _ in range(40)}
        path.write_text("x = (\n")
        silly.send(signal.SIGHUP)
        silly.until("SyntaxError")
        silly.until("another process runs as worker 1")
        silly.until("the restart was abandoned")
        assert {who(addr)[1] for _ in range(40)} == pids
        path.write_text(ECHO)
        silly.send(signal.SIGHUP)
        silly.until(": restarted$")
        assert not {who(addr)[1] for _ in range(40)} & pids
        silly.stop()


def test_workers_are_added_and_removed(tmp_path: Path) -> None:
    with running("-m", "silly", "--workers", "1", script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready")
        silly.send(signal.SIGTTIN)
        silly.until("worker 2 .* is ready")
        pids = dict(who(addr) for _ in range(40))
        assert set(pids) == {1, 2}
        with Load(addr) as load, dial(addr) as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"hello\n"
            load.more(20)
            silly.send(signal.SIGTTOU)
            while {who(addr)[0] for _ in range(40)} != {1}:
                pass
            load.more(20)
        assert load.failures == []
        silly.send(signal.SIGTTOU)
        silly.until("worker 1 is the last one: not removed")
        assert who(addr)[0] == 1
        silly.send(signal.SIGTTIN)
        silly.until("worker 2 .* is ready")
        silly.stop()


def test_worker_that_is_asked_to_stop_is_replaced(tmp_path: Path) -> None:
    with running("-m", "silly", "--workers", "1", script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready")
        _, pid = who(addr)
        os.kill(pid, signal.SIGTERM)
        silly.until("is ready")
        assert who(addr)[1] != pid
        silly.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains_and_the_second_forces(tmp_path: Path, number: signal.Signals) -> None:
    command = ["-m", "silly", "--workers", "1", "--grace", "600", script(tmp_path)]
    with running(*command) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready")
        with dial(addr) as sock:
            sock.sendall(b"one\n")
            assert sock.recv(100) == b"one\n"
            silly.send(number)
            silly.until("stopping; waiting up to 600 s for 1 worker ")
            sock.sendall(b"two\n")  # the handler continues
            assert sock.recv(100) == b"two\n"
            # The same signal so soon would count as the first one.
            silly.send(signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM)
            silly.rest()
            assert silly.process.returncode == 0


def test_the_second_signal_forces_a_worker_that_has_not_reported(tmp_path: Path) -> None:
    text = """
        from silly._loop import signals
        from silly.workers.worker import Worker

        signals.DEBOUNCE = 600
        Worker.running = lambda *_, **__: None
    """
    with running(
        "-m",
        "silly",
        "--workers",
        "1",
        "--grace",
        "600",
        script(tmp_path, textwrap.dedent(text) + ECHO),
    ) as silly:
        with dial(silly.until(LISTENING)[0]) as sock:
            sock.sendall(b"one\n")
            assert sock.recv(100) == b"one\n"
            silly.send(signal.SIGINT)
            silly.until("stopping; waiting up to 600 s for 1 worker ")
            silly.send(signal.SIGTERM)
            silly.rest()
            assert silly.process.returncode == 0
            assert "did not stop in time" not in silly.output


@pytest.mark.no_engine
def test_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    text = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ignoring", flush=True)
        time.sleep(1000)
    """
    with running("-m", "silly", "--workers", "1", script(tmp_path, text)) as silly:
        silly.until("ignoring")
        silly.send(signal.SIGTERM)
        silly.until("stopping")
        over = threading.Event()

        def press_again() -> None:  # this does not delay the kill
            while not over.wait(0.2):
                silly.send(signal.SIGINT)

        hammer = threading.Thread(target=press_again)
        hammer.start()
        silly.until("did not stop in time: killing it")
        over.set()
        hammer.join()
        silly.rest()
        assert silly.process.returncode == 0


def test_workers_leave_when_their_supervisor_is_killed(port: int, tmp_path: Path) -> None:
    addr = f"127.0.0.1:{port}"
    with running("-m", "silly", "--workers", "2", script(tmp_path), addr) as silly:
        assert silly.until(LISTENING) == [addr]
        silly.until("is ready", times=2)
        silly.send(signal.SIGKILL)
        assert silly.rest().count("the supervisor is gone: stopping") == 2  # they have left
        with pytest.raises(ConnectionRefusedError):
            dial(addr)


def test_stuck_worker_is_replaced(tmp_path: Path) -> None:
    text = ECHO.replace(
        'if line == b"who',
        'if line == b"stick\\n":\n'
        '            import time; time.sleep(1000)\n        if line == b"who',
    )
    command = ["-m", "silly", "--workers", "1", "--watchdog", "1", script(tmp_path, text)]
    with running(*command) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready")
        with dial(addr) as sock:
            sock.sendall(b"stick\n")
            silly.until("has not answered for .*: killing it")
            silly.until("was killed by SIGABRT; starting another")
            assert re.search(
                r'script\.py", line \d+ in handler', silly.output
            )  # where it was stuck
            silly.until("is ready")
        assert ask(addr, b"fine\n") == b"fine\n"
        silly.stop()


def test_unix_socket_survives_its_workers_and_is_removed_by_the_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with running("-m", "silly", "--workers", "2", script(tmp_path), f"unix:{path}") as silly:
        silly.until("is ready", times=2)
        inode = path.stat().st_ino
        with Load(f"unix:{path}") as load:
            silly.send(signal.SIGHUP)
            silly.until(": restarted$")
        assert load.failures == []
        assert path.stat().st_ino == inode
        silly.stop()
        assert not path.exists()


def test_listener_that_a_program_closes_is_closed(tmp_path: Path) -> None:
    text = """
        async def close(conn):
            await listener.close()
            await conn.write(b"closed\\n")

        closer = tcp.listen("127.0.0.1:0", close)
        print("closing", closer.local_addr, flush=True)
    """
    path = script(tmp_path, ECHO + textwrap.dedent(text))
    with running("-m", "silly", "--workers", "1", path) as silly:
        addr = silly.until(LISTENING)[0]
        closer = silly.until(r"closing (\S+)")[0]
        silly.until("is ready")
        assert addr != closer
        assert ask(closer, b"") == b"closed\n"
        refused = False
        while not refused:  # the supervisor learns it a moment later
            with contextlib.suppress(ConnectionResetError):  # the socket was just being closed
                try:
                    dial(addr).close()
                except ConnectionRefusedError:
                    refused = True
        silly.stop()


def test_port_chosen_in_a_handler_belongs_to_that_worker(tmp_path: Path) -> None:
    text = """
        from silly.net import tcp

        async def handler(conn):
            listener = tcp.listen("127.0.0.1:0", handler)
            conn.write(f"{listener.local_addr}\\n".encode())

        listener = tcp.listen("127.0.0.1:0", handler)
        print("listening 1 1", listener.local_addr, flush=True)
    """
    with running("-m", "silly", "--workers", "2", script(tmp_path, text)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        others = {ask(addr, b"") for _ in range(20)}
        assert len(others) == 20
        assert addr.encode() not in {other.strip() for other in others}
        silly.stop()


@pytest.mark.no_engine
def test_the_documented_program_supervises(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "graceful-restarts.md"
    (block,) = re.findall(r"```python3\n(.*?)```", page.read_text(), re.DOTALL)
    script(tmp_path, ECHO, "app.py")
    with running(script(tmp_path, block), cwd=tmp_path) as silly:
        addrs = silly.until(LISTENING, times=4)
        assert len(set(addrs)) == 1
        assert ask(addrs[0], b"x\n") == b"x\n"
        silly.stop()


@pytest.mark.no_engine
def test_module_and_function(tmp_path: Path) -> None:
    text = ECHO.replace("listener =", "async def main():\n    listener =").replace(
        "\nprint(", "\n    print("
    )
    script(tmp_path, text, "service.py")
    with running(*api(workers=2), "service:main", cwd=tmp_path) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2)
        assert ask(addr, b"x\n") == b"x\n"
        silly.stop()
    for target, complaint in (
        ("service:other", "module 'service' has no function 'other'"),
        ("nowhere:main", "there is no module 'nowhere' here for 'nowhere:main'"),
    ):
        with running("-m", "silly", target, cwd=tmp_path) as silly:
            assert silly.rest() == f"silly: {complaint}\n"
            assert silly.process.returncode == 1


@pytest.mark.no_engine
def test_options_go_before_the_file_or_right_after_it(tmp_path: Path) -> None:
    text = "import os, sys\nprint(os.environ.get('SILLY_WORKER'), sys.argv[1:], flush=True)\n"
    path = script(tmp_path, text)
    for words, environ, expected in (
        (
            [path, "--workers", "1", "--grace=3", "x", "--workers", "y"],
            {},
            "1 ['x', '--workers', 'y']",
        ),
        (["--workers=1", path, "--", "--debug"], {}, "1 ['--debug']"),
        ([path, "--help", "--workers", "2"], {}, "None ['--help', '--workers', '2']"),
        ([path, "--debug", "--"], {}, "None []"),
        ([path, "--", "--"], {}, "None ['--']"),
        ([path, "x"], {"SILLY_WORKERS": "1", "SILLY_WATCHDOG": "60"}, "1 ['x']"),
    ):
        with running("-m", "silly", *words, env=environment(**environ)) as silly:
            assert silly.rest().splitlines()[0] == expected
            assert silly.process.returncode == 0


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("words", "environ", "complaint"),
    [
        (["--workers", "0", "FILE"], {}, "argument --workers: '0' is not a number of 1 or more"),
        (["FILE", "--workers", "many"], {}, "argument --workers: 'many' is not a number"),
        (["FILE", "--workers"], {}, "argument --workers: expected one argument"),
        (["FILE"], {"SILLY_WORKERS": "x"}, "SILLY_WORKERS: 'x' is not a number of 1 or more"),
        (["FILE"], {"SILLY_DEBUG": "maybe"}, "SILLY_DEBUG: 'maybe' is not 1 or 0"),
        (["FILE", "--reload", "--workers", "2"], {}, "--reload runs a single worker"),
        (["FILE", "--watchdog", "5"], {}, "--watchdog needs --workers"),
        (
            ["--workers", "1", "FILE", "--watchdog", "0"],
            {},
            "'0' is not a duration above 0",
        ),
        (["--workers", "2"], {}, "the following arguments are required: FILE.py"),
        (["--reload", "--reload-dir", "/missing", "FILE"], {}, "'/missing' is not a directory"),
        (["--env-file", "/missing", "FILE"], {}, "--env-file: cannot read '/missing': No such"),
    ],
)
def test_wrong_usage_is_reported(
    tmp_path: Path, words: list[str], environ: dict[str, str], complaint: str
) -> None:
    path = script(tmp_path, "")
    done = subprocess.run(
        [sys.executable, "-m", "silly", *[str(path) if word == "FILE" else word for word in words]],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.no_engine
def test_a_missing_file_is_one_line_with_workers_too(tmp_path: Path) -> None:
    with running("-m", "silly", "--workers", "2", tmp_path / "missing.py") as silly:
        assert re.fullmatch(r"silly: cannot read '.*': .*\n", silly.rest())
        assert silly.process.returncode == 2


@pytest.mark.no_engine
def test_bad_arguments_of_the_api(tmp_path: Path) -> None:
    from silly.workers import Supervisor

    path = str(script(tmp_path))
    for target, options, kind, complaint in (
        ("missing.py", {}, ValueError, "target"),
        (None, {}, TypeError, "target"),
        (path, {"workers": 0}, ValueError, "workers must be 1 or more"),
        (path, {"grace": -1}, ValueError, "grace"),
        (path, {"watchdog": 0}, ValueError, "watchdog"),
        (path, {"give_up": 0}, ValueError, "give_up"),
    ):
        with pytest.raises(kind, match=complaint):
            Supervisor(target, **options)  # type: ignore[arg-type]


@pytest.mark.no_engine
@pytest.mark.parametrize("errors", ["shown", "redirected"])
def test_a_terminal_that_is_hung_up_stops_the_workers(tmp_path: Path, errors: str) -> None:
    command = [sys.executable, "-m", "silly", "--workers", "1", str(script(tmp_path))]
    if errors == "redirected":
        command = ["sh", "-c", f"exec {shlex.join(command)} 2>{tmp_path}/log"]
    with Terminal(command=command) as terminal:
        terminal.wait_for("listening 1")
        terminal.process.send_signal(signal.SIGHUP)  # from somebody: a restart
        terminal.wait_for("listening 1[^$]*listening 1")
        terminal.hang_up()
        assert terminal.process.wait(DEADLINE) == 0
