"""``silly connect`` as a user runs it: on a terminal, and in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.output import DummyOutput

from silly.cli.connecting.opening import accept
from silly.cli.connecting.prompt import Prompt, Recent
from silly.cli.connecting.speaking_http import Hint
from tests.cli.terminal import Echo, Terminal, dialled, misused, refused, silly, started

LOCAL = "127.0.0.1:0"


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run *serve* with the first client of a server; yield the server's address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def accept() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(30)
                serve(sock)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def receive_all(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --------------------------------------------------------------------------- in a pipe


def answer_http(sock: socket.socket) -> None:
    assert sock.recv(1000).endswith(b"\n")
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_server_of_http_is_explained_once_to_those_who_type() -> None:
    with server(answer_http) as addr, Terminal("connect", *addr.split(":")) as terminal:
        terminal.wait_for("^Connected to")
        terminal.wait_for_prompt()
        terminal.type("hello\r")
        terminal.wait_for("^HTTP/1.1 400 Bad Request")
        assert terminal.end() == 0
        assert terminal.text.count("GET / HTTP/1.1") == 1
        assert "again with --crlf: its lines end with CR LF" in terminal.text
    with server(answer_http) as addr:
        done = silly("connect", addr, data=b"hello\n")
        assert (done.stdout, done.stderr) == (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"")


@pytest.mark.parametrize(
    ("addr", "options", "said"),
    [
        ("example.com:80", (False, False), ["  Host: example.com", "with --crlf: its lines"]),
        (":8080", (True, False), ["  Host: localhost"]),
        ("[::1]:443", (False, False), ["  Host: [::1]", "with --crlf --tls: its lines", "of TLS"]),
        ("h:443", (True, True), ["  Host: h"]),
        ("h:9999", (True, True), []),
        ("unix:/tmp/x", (True, True), []),
    ],
)
def test_ports_of_http_are_known(addr: str, options: tuple[bool, bool], said: list[str]) -> None:
    lines: list[str] = []
    hint = Hint(addr, has_crlf=options[0], has_tls=options[1])
    hint.begin(lines.append)
    text = "\n".join(lines)
    assert [part for part in said if part not in text] == []
    assert bool(lines) == bool(said)
    assert ("But first" in text) == (len(said) > 1)
    hint.notice(b"HTTP/1.0 200", lines.append)
    assert "\n".join(lines).count("GET / HTTP/1.1") == 1


def test_host_and_port_may_be_two_arguments() -> None:
    assert "expected ADDR, or HOST and PORT" in misused("connect", "localhost", "http")


@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 5000])
def test_bytes_pass_through_unchanged(data: bytes, tmp_path: Path) -> None:
    with Echo(LOCAL, f"unix:{tmp_path}/x.sock", "--raw") as echo:
        for addr in (echo.addr, *echo.listening["unix"]):
            done = silly("connect", addr, data=data)
            assert (done.stdout, done.stderr) == (data, b"")
        assert echo.stop()["bytes_out"] == 2 * len(data)


def test_input_and_output_may_be_files(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    with Echo(LOCAL, "--raw") as echo:
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
            command = ["-c", 'exec "$0" -m silly connect "$1"', sys.executable, echo.addr]
            pid = os.posix_spawnp(
                "sh", ["sh", *command], os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, source.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, target.fileno(), 1),
                ],
            )  # fmt: skip
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        echo.stop()
    assert (tmp_path / "out").read_bytes() == data


def test_the_end_of_input_is_sent_and_the_answer_is_awaited() -> None:
    def answer_at_the_end(sock: socket.socket) -> None:
        sock.sendall(b"you sent " + receive_all(sock))

    with server(answer_at_the_end) as addr:
        assert silly("connect", addr, data=b"this").stdout == b"you sent this"


def test_without_half_close_the_peer_sees_no_end() -> None:
    def answer(sock: socket.socket) -> None:
        assert sock.recv(100) == b"this"
        sock.sendall(b"that")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(100)

    with server(answer) as addr:
        assert silly("connect", addr, "--no-half-close", data=b"this").stdout == b"that"


def test_the_input_goes_on_after_the_peer_finished() -> None:
    received: list[bytes] = []

    def finish_first(sock: socket.socket) -> None:
        sock.sendall(b"no more from me")
        sock.shutdown(socket.SHUT_WR)
        received.append(receive_all(sock))

    with server(finish_first) as addr, started("connect", addr) as process:
        assert process.stdout.read() == b"no more from me"
        process.stdin.write(b"but from me")
        process.stdin.close()
        assert process.wait() == 0
    assert received == [b"but from me"]


def test_crlf() -> None:
    received: list[bytes] = []
    with server(lambda sock: received.append(receive_all(sock))) as addr:
        silly("connect", addr, "--crlf", data=b"one\ntwo\r\n\nthree")
    assert received == [b"one\r\ntwo\r\n\r\nthree"]


@pytest.mark.no_engine
def test_hexdump_and_timestamps_in_a_pipe() -> None:
    with Echo(LOCAL, "--raw") as echo:
        dump = silly("connect", echo.addr, "--hex", data=bytes(20)).stdout
        stamped = silly("connect", echo.addr, "--timestamps", data=b"one\n\xfftwo").stdout
        echo.stop()
    assert dump == (
        b"00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n"
        b"00000010  00 00 00 00                                       |....|\n"
    )
    time = rb"\d\d:\d\d:\d\d\.\d\d\d "
    assert re.fullmatch(time + b"one\n" + time + b"\xfftwo", stamped)


def test_a_reader_that_leaves_ends_it() -> None:
    with Echo(LOCAL, "--chargen") as echo, started("connect", echo.addr) as process:
        process.stdin.close()
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        assert process.wait() == 1
        assert process.stderr.read() == b""
        echo.stop()


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("this system does not tell how much memory a process has")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) << 10


def test_a_hundred_megabytes_both_ways_in_bounded_memory() -> None:
    count, piece = 100, bytes(range(256)) * 4096
    with Echo(LOCAL, "--raw") as echo, started("connect", echo.addr) as process:

        def write() -> None:
            for _ in range(count):
                process.stdin.write(piece)
            process.stdin.flush()

        writing = threading.Thread(target=write)
        writing.start()
        for _ in range(count):
            assert process.stdout.read(len(piece)) == piece
        writing.join()
        assert peak_memory(process.pid) < 80_000_000
        assert peak_memory(echo.process.pid) < 80_000_000
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait() == 0
        assert echo.stop()["bytes_out"] == count * len(piece)


ENOUGH = 60_000_000  # bytes: more than all buffers in between may hold


def test_a_fast_server_waits_for_the_reader_of_the_output() -> None:
    sent, stuck = [0], threading.Event()

    def send(sock: socket.socket) -> None:
        sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while sent[0] < ENOUGH:
                sent[0] += sock.send(bytes(1 << 20))
        stuck.set()

    with server(send) as addr, started("connect", addr) as process:
        assert process.stdout.read(1) == b"\0"
        assert stuck.wait(30)
        assert 0 < sent[0] < ENOUGH
        assert peak_memory(process.pid) < 80_000_000


def test_a_fast_input_waits_for_the_server() -> None:
    connected, over = threading.Event(), threading.Event()

    def hold(_sock: socket.socket) -> None:
        connected.set()
        over.wait(30)

    with server(hold) as addr, started("connect", addr) as process:
        assert connected.wait(30)
        os.set_blocking(process.stdin.fileno(), False)
        taken = 0
        while taken < ENOUGH and select.select([], [process.stdin], [], 1)[1]:
            taken += os.write(process.stdin.fileno(), bytes(1 << 16))
        assert 0 < taken < ENOUGH
        assert peak_memory(process.pid) < 80_000_000
        process.terminate()
        assert process.wait() == 143
        over.set()


# ------------------------------------------------------------------------- exit codes


def test_connection_refused(port: int) -> None:
    addr = f"127.0.0.1:{port}"
    assert refused("connect", addr, code=1) == f"silly connect: {addr}: Connection refused"
    assert "No such file" in refused("connect", "unix:/tmp/there/is/no/such.sock", code=1)


def test_a_connection_that_is_reset() -> None:
    def send_and_reset(sock: socket.socket) -> None:
        sock.sendall(b"so far")
        sock.recv(1)
        reset(sock)

    with server(send_and_reset) as addr, started("connect", addr) as process:
        assert process.stdout.read(6) == b"so far"
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.wait() == 1
        line = process.stderr.read().decode()
    assert re.fullmatch(rf"silly connect: {addr}: Connection reset by peer\n", line)


def test_timeouts() -> None:
    with Echo(LOCAL) as echo, started("connect", echo.addr, "--idle-timeout", "100ms") as process:
        assert process.wait() == 1
        assert b"dle for 0.1 seconds" in process.stderr.read()
        echo.stop()
    with started("connect", "--listen", LOCAL, "--timeout", "100ms") as process:
        assert process.wait() == 1
        assert b"no client connected within 0.1 seconds\n" in process.stderr.read()
    # A listener with a full backlog does not answer.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        addr = f"127.0.0.1:{full.getsockname()[1]}"
        with contextlib.ExitStack() as held:
            for _ in range(4):
                sock = held.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            line = refused("connect", addr, "--timeout", "100ms", code=1)
    assert line == f"silly connect: {addr}: Not connected within 0.1 seconds"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_in_a_pipe(number: int, code: int) -> None:
    with Echo(LOCAL, "--commands") as echo, started("connect", echo.addr) as process:
        assert process.stdout.read(7) == b"Welcome"
        process.send_signal(number)
        assert process.wait() == code
        assert process.stderr.read() == b""
        echo.stop()


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["nonsense"], "ADDR 'nonsense' is not an address: it has no port"),
        (["127.0.0.1:0"], "port 0, which only --listen can use"),
        (["::1:5"], "an IPv6 address needs brackets"),
        ([], "Missing argument 'ADDR'"),
        ([":5", "--timeout", "0"], "--timeout must be more than 0"),
        ([":5", "--idle-timeout", "x"], "'x' is not a duration"),
        ([":5", "--proxy-header", "x:1"], "source 'x:1' needs an IP address instead of 'x'"),
        ([":5", "--proxy-header", "192.0.2.1"], "source '192.0.2.1' is not an address: it has no"),
        ([":5", "--proxy-header", "unix:"], "source 'unix:' and destination the peer are of two"),
        ([":5", "--proxy-version", "3"], "'3' is not one of '1', '2'"),
        ([":5", "--listen", "--proxy-header", "local"], "--listen and --proxy-header: only a"),
        (["ws://"], "must begin with"),
        (["wss://127.0.0.1:1/", "--key", "x.pem"], "--key"),
    ],
)
def test_bad_usage_is_one_line(args: list[str], why: str) -> None:
    assert why in misused("connect", *args)


@pytest.mark.no_engine
def test_closed_standard_streams_are_one_line() -> None:
    command = ["sh", "-c", 'exec "$0" -m silly connect :5 <&-', sys.executable]
    with started(command=command) as process:
        assert process.wait() == 2
        assert process.stderr.read() == (b"silly connect: standard input and output must be open\n")


@pytest.mark.no_engine
def test_help_has_examples_groups_and_exit_codes() -> None:
    told = silly("connect", "--help").stdout.decode()
    for part in ("Connection:", "Sending:", "Receiving:", "TLS:"):
        assert f"\n{part}\n" in told
    assert len(re.findall(r"^  .*silly connect", told, re.MULTILINE)) >= 5
    assert "Exit codes" in told


# ------------------------------------------------------------------------------ --listen


@pytest.mark.no_engine
async def test_a_line_without_an_end_is_shown_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with create_app_session(output=DummyOutput()):
        prompt = Prompt()
        shown = ""
        for _ in range(100):
            await prompt.show("x" * 1000)
            shown += capsys.readouterr().out
        await prompt.show("\nand on")
        prompt.finish()
        shown += capsys.readouterr().out
    assert shown.replace("\n", "") == "x" * 100_000 + "and on"
    assert shown.endswith("\nand on\n")


@pytest.mark.no_engine
async def test_the_history_is_bounded() -> None:
    history = Recent()
    for number in range(3000):
        history.append_string(str(number))
    assert [line async for line in history.load()] == [
        str(number) for number in reversed(range(2000, 3000))
    ]
    assert history.get_strings() == [str(number) for number in range(2000, 3000)]


@pytest.mark.no_engine
async def test_only_the_first_client_is_accepted(port: int) -> None:
    addr = f"127.0.0.1:{port}"
    accepting = asyncio.create_task(accept(addr, None))
    await asyncio.sleep(0)
    with dialled(addr) as first, dialled(addr) as second:
        conn = await accepting
        assert conn.remote_addr == "{}:{}".format(*first.getsockname())
        second.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(second, 1)
        conn.close()
        await conn.wait_closed()


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_listen_takes_one_connection(family: str, port: int, tmp_path: Path) -> None:
    addr = f"127.0.0.1:{port}" if family == "tcp" else f"unix:{tmp_path}/x.sock"
    with started("connect", "--listen", addr) as listening:
        line = listening.stderr.readline().decode()
        found = re.fullmatch(r"Listening on (\S+)\n", line)
        assert found, line
        with started("connect", found[1]) as process:
            process.stdin.write(b"to the listener")
            process.stdin.flush()
            assert listening.stdout.read(15) == b"to the listener"
            code = "No such file" if family == "unix" else "refused"
            assert code in refused("connect", found[1], code=1)
            listening.stdin.write(b"and back")
            listening.stdin.flush()
            assert process.stdout.read(8) == b"and back"
            process.stdin.close()
            # The listener ends with its peer, like nc -l, although its input is still open.
            assert listening.wait() == 0
            assert process.wait() == 0
    assert not (tmp_path / "x.sock").exists()


def test_listen_on_an_address_in_use() -> None:
    with Echo(LOCAL) as echo:
        line = refused("connect", "--listen", echo.addr, code=1)
        echo.stop()
    assert "Address already in use" in line


# ------------------------------------------------------------------------- on a terminal

SIZES = pytest.mark.parametrize("size", [(80, 24), (40, 12)])


@pytest.mark.no_engine
@SIZES
def test_line_mode_has_editing_history_and_the_peers_prompt(size: tuple[int, int]) -> None:
    with Echo(LOCAL, "--commands") as echo:
        with Terminal("connect", echo.addr, size=size) as terminal:
            terminal.wait_for("^>$")
            terminal.wait_for_prompt()
            terminal.type("hellp\x1b[D\x7fp\x1b[C\x7fo\r")  # left, backspace, right, backspace
            terminal.wait_for("^> helpo?")
            terminal.wait_for("^Echo: helpo$")
            terminal.wait_for("^>$")
            terminal.wait_for_prompt()
            terminal.type("\x1b[A\x7f\r")  # the previous line without its last letter
            terminal.wait_for("^  quit  - Disconnect")
            terminal.wait_for("^>$")
            terminal.wait_for_prompt()
            terminal.type("quit\r")
            assert terminal.end() == 0
        assert "Goodbye!" in terminal.text
        assert terminal.text.endswith("Connection closed by the peer")
        assert echo.stop()["answers"] == 3


@pytest.mark.no_engine
@SIZES
def test_the_peer_cannot_control_the_terminal(size: tuple[int, int]) -> None:
    evil = b"\x1b]0;owned\x07\x1b[2J\x1b[31mred \xc2\x9b5m\xff\r\n"

    def send(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(evil)
        receive_all(sock)

    with server(send) as addr, Terminal("connect", addr, size=size) as terminal:
        terminal.wait_for_prompt()
        terminal.type("go\r")
        terminal.wait_for("red")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "^[]0;owned^G^[[2J^[[31mred \\x9b5m\\xff" in terminal.text.replace("\n", "")
        for sequence in (b"\x1b]0;owned", b"\x1b[2J", b"\x1b[31m", b"\xc2\x9b"):
            assert sequence not in terminal.raw


def test_the_output_of_a_pipe_that_ends_on_a_terminal_is_safe_too() -> None:
    command = ["sh", "-c", 'printf "\\033[2Jx" | "$0" -m silly connect "$1"', sys.executable]
    with Echo(LOCAL, "--raw") as echo, Terminal(echo.addr, command=command) as terminal:
        assert terminal.end() == 0
        assert terminal.text == "^[[2Jx"
        echo.stop()


@pytest.mark.parametrize("is_reset", [False, True])
def test_the_peer_leaves_while_the_user_types(is_reset: bool) -> None:
    go = threading.Event()

    def leave(sock: socket.socket) -> None:
        assert go.wait(30)
        if is_reset:
            reset(sock)

    with server(leave) as addr, Terminal("connect", addr) as terminal:
        terminal.wait_for_prompt()
        terminal.type("half a li")
        terminal.wait_for("half a li")
        go.set()
        assert terminal.end() == (1 if is_reset else 0)
        assert terminal.text.endswith(
            "Connection reset by peer" if is_reset else "Connection closed by the peer"
        )


def test_ctrl_d_ends_the_input_and_the_rest_is_shown() -> None:
    def answer_at_the_end(sock: socket.socket) -> None:
        sock.sendall(b"you sent " + receive_all(sock))

    with server(answer_at_the_end) as addr, Terminal("connect", addr, "--crlf") as terminal:
        terminal.wait_for_prompt()
        terminal.type("é€\r")
        terminal.wait_for("^é€")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "you sent é€" in terminal.text


@pytest.mark.parametrize("phase", ["typing", "after Ctrl-D", "connecting"])
def test_ctrl_c_at_any_moment(phase: str) -> None:
    over = threading.Event()
    with server(lambda _sock: over.wait(30)) as addr:
        args = [addr] if phase != "connecting" else ["--listen", LOCAL]
        with Terminal("connect", *args) as terminal:
            if phase == "connecting":
                terminal.wait_for("Listening on")
            else:
                terminal.wait_for_prompt()
            if phase == "after Ctrl-D":
                terminal.type("\x04")
                terminal.wait_for_prompt(over=True)
            terminal.type("typed\x03" if phase == "typing" else "\x03")
            assert terminal.end() == 130
        over.set()
        if phase == "connecting":
            socket.create_connection(("127.0.0.1", int(addr.rpartition(":")[2]))).close()


def test_sigterm_on_a_terminal() -> None:
    with Echo(LOCAL) as echo, Terminal("connect", echo.addr) as terminal:
        terminal.wait_for_prompt()
        terminal.process.terminate()
        assert terminal.end() == 143
        echo.stop()


@pytest.mark.no_engine
@SIZES
def test_hexdump_and_timestamps_on_a_terminal(size: tuple[int, int]) -> None:
    with Echo(LOCAL) as echo:
        with Terminal("connect", echo.addr, "--hex", "--timestamps", size=size) as terminal:
            terminal.wait_for_prompt()
            terminal.type("0123456789abcdef\r")
            terminal.wait_for(r"^\d\d:\d\d:\d\d\.\d{3} 00000000  30 31 32 33")
            terminal.wait_for(r"\|\.\|$")
            assert len(re.findall(r"^\d\d:\d\d:\d\d\.\d{3} 0000", terminal.text, re.MULTILINE)) >= 2
            terminal.wait_for_prompt()
            terminal.type("\x04")
            assert terminal.end() == 0
        echo.stop()


@pytest.mark.no_engine
def test_a_dumb_terminal_gets_lines_without_escapes() -> None:
    with Echo(LOCAL) as echo, Terminal("connect", echo.addr, TERM="dumb") as terminal:
        terminal.wait_for_prompt()
        terminal.type("hello\r")
        terminal.wait_for("hello\n(.*\n)*hello")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
        assert b"\x1b[3" not in terminal.raw
        echo.stop()


@pytest.mark.no_engine
def test_no_color() -> None:
    with Echo(LOCAL) as echo, Terminal("connect", echo.addr, NO_COLOR="1") as terminal:
        terminal.wait_for_prompt()
        terminal.type("hello\r")
        terminal.wait_for("^hello\nhello")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
        assert not re.search(rb"\x1b\[(?:\d+;)*3\d", terminal.raw)
        echo.stop()


WITHOUT = """
import sys
sys.modules.update({"rich.console": None, "prompt_toolkit": None})
from silly.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.no_engine
def test_a_missing_library_is_one_line_that_names_the_extra() -> None:
    without = [sys.executable, "-c", WITHOUT]
    with Terminal("echo", LOCAL, command=without) as terminal:
        assert terminal.end() == 2
        assert terminal.text.startswith("silly echo: the live view needs rich: ")
    with Echo(LOCAL, "--raw") as echo:
        with Terminal("connect", echo.addr, command=without) as terminal:
            assert terminal.end() == 2
            assert "the line mode needs prompt_toolkit: " in terminal.text
        with started("connect", echo.addr, command=without) as process:  # not needed in a pipe
            assert process.communicate(b"hello")[0] == b"hello"
            assert process.returncode == 0
        echo.stop()
