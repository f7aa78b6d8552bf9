"""``silly echo`` as a user runs it: in its own process, on every kind of address."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from silly.cli.echoing import chargen
from silly.cli.echoing.datagrams import REPEATS
from tests.cli.terminal import (
    SILLY,
    Echo,
    Terminal,
    dialled,
    exchange,
    misused,
    refused,
    silly,
    started,
)

LOCAL = "127.0.0.1:0"


# ------------------------------------------------------------------------- the modes


@pytest.mark.parametrize("mode", [(), ("--lines",), ("--raw",)])
def test_bytes_are_echoed(mode: tuple[str, ...]) -> None:
    data = b"one\r\n\ntwo\x00\xff\nunfinished"
    with Echo(LOCAL, *mode) as echo:
        assert exchange(echo.addr, data) == data
        assert exchange(echo.addr, b"") == b""
        summary = echo.stop()
    assert summary["connections"] == {"accepted": 2, "peak": 1}
    assert summary["bytes_in"] == summary["bytes_out"] == len(data)
    if mode != ("--raw",):
        assert summary["answers"] == 4


def test_lines_are_echoed_when_they_are_complete() -> None:
    with Echo(LOCAL) as echo, dialled(echo.addr) as sock:
        sock.sendall(b"one\ntw")
        assert sock.recv(100) == b"one\n"
        sock.sendall(b"o\n")
        assert sock.recv(100) == b"two\n"
        echo.stop()
        assert sock.recv(100) == b""


def test_frames_are_echoed_when_they_are_complete() -> None:
    one, empty = struct.pack(">I", 5) + b"hello", struct.pack(">I", 0)
    with Echo(LOCAL, "--frames", "--read-limit", "1k") as echo:
        assert exchange(echo.addr, one + empty + one[:7]) == one + empty
        limit = struct.pack(">I", 1024) + bytes(1024)
        assert exchange(echo.addr, limit) == limit
        assert exchange(echo.addr, struct.pack(">I", 1025)) == b""
        summary = echo.stop()
    assert (summary["answers"], summary["ended"]) == (3, {"read_limit": 1})


def test_discard_reads_all_and_sends_nothing() -> None:
    with Echo(LOCAL, "--discard") as echo:
        assert exchange(echo.addr, bytes(1_000_000)) == b""
        assert exchange(echo.addr, b"") == b""
        summary = echo.stop()
    assert (summary["bytes_in"], summary["bytes_out"]) == (1_000_000, 0)


def test_chargen_sends_the_pattern_even_after_the_client_finished_sending() -> None:
    with Echo(LOCAL, "--chargen") as echo:
        for is_finished in (False, True):
            with dialled(echo.addr) as sock, sock.makefile("rb") as file:
                sock.sendall(b"this is thrown away\n" * 1000)
                if is_finished:
                    sock.shutdown(socket.SHUT_WR)
                lines = [file.readline() for _ in range(1000)]
            assert lines == [chargen.line(number) for number in range(1000)]
        assert echo.stop()["connections"]["accepted"] == 2


def test_chargen_accepts_while_a_client_reads_at_full_speed() -> None:
    with Echo(LOCAL, "--chargen") as echo, dialled(echo.addr) as greedy:
        taken, enough = threading.Event(), 5_000_000

        def take() -> None:
            room, count = bytearray(1 << 20), 0
            with contextlib.suppress(ConnectionResetError):  # at the end
                while got := greedy.recv_into(room):
                    count += got
                    if count > enough:
                        taken.set()

        taking = threading.Thread(target=take)
        taking.start()
        assert taken.wait(30)
        with dialled(echo.addr) as sock, sock.makefile("rb") as file:
            assert file.readline() == chargen.line(0)
        greedy.shutdown(socket.SHUT_RDWR)
        taking.join()
        assert echo.stop()["connections"] == {"accepted": 2, "peak": 2}


def test_the_commands_of_the_tutorial() -> None:
    with Echo(LOCAL, "--commands") as echo:
        told = exchange(echo.addr, b"help\r\nhello\ntime\nquit\nnot read\n").decode()
        summary = echo.stop()
    assert told.startswith("Welcome to Silly Echo Server!\nType 'help' for commands\n> ")
    assert "\n> Command list:\n  help  - Show this help\n" in told
    assert "\n> Echo: hello\n> " in told
    assert re.search(r"\d\d:\d\d:\d\d", told)
    assert told.endswith("> Goodbye!\n")
    assert summary["answers"] == 4


# ------------------------------------------------------------------------- addresses


def test_several_addresses_at_once(tmp_path: Path) -> None:
    with Echo(LOCAL, "[::1]:0", f"unix:{tmp_path}/echo.sock", LOCAL) as echo:
        addrs = echo.listening["tcp"] + echo.listening["unix"]
        assert [addr.rpartition(":")[0] for addr in addrs] == [
            "127.0.0.1", "[::1]", "127.0.0.1", "unix",
        ]  # fmt: skip
        for addr in addrs:
            assert exchange(addr, b"hello\n") == b"hello\n"
        assert echo.stop()["connections"]["accepted"] == 4
    assert not (tmp_path / "echo.sock").exists()


def test_plain_lines_without_a_terminal() -> None:
    with started("echo", LOCAL, "--idle-timeout", "200ms") as process:
        first = process.stdout.readline().decode()
        found = re.fullmatch(r"Listening on (127\.0\.0\.1:\d+) \(TCP\)\n", first)
        assert found, first
        with dialled(found[1]) as sock:
            peer = f"127.0.0.1:{sock.getsockname()[1]}"
            opened = process.stdout.readline().decode()
            assert re.fullmatch(rf"\d\d:\d\d:\d\d open {peer}\n", opened)
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"hello\n"
            closed = process.stdout.readline().decode()
        assert re.search(rf"close {peer}: 6 B in, 6 B out, \d.*; Idle for 0.2 seconds", closed)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    assert b"connections: 1, at most 1 at a time; ended 1 by idle_timeout\n" in rest
    assert b"\n6 B in, 6 B out, 1 line\n" in rest
    assert b"\x1b" not in rest


def test_it_keeps_serving_when_its_log_is_not_read() -> None:
    with started("echo", LOCAL) as process:
        addr = process.stdout.readline().split()[2].decode()
        process.stdout.close()
        for _ in range(3):
            assert exchange(addr, b"hello\n") == b"hello\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait() == 0


# ----------------------------------------------------------------------------- limits


def test_limits_are_flags_and_flags_win_over_the_environment() -> None:
    with Echo(LOCAL, "--max-connections", "1", SILLY_MAX_CONNECTIONS="5") as echo:
        with dialled(echo.addr) as first:
            first.sendall(b"in\n")
            assert first.recv(10) == b"in\n"
            # The reset may arrive before connecting has returned.
            with pytest.raises(ConnectionResetError), dialled(echo.addr) as second:
                second.recv(10)
        assert echo.stop()["refused"] == {"max_connections": 1}


def test_the_environment_sets_limits() -> None:
    with Echo(LOCAL, SILLY_READ_LIMIT="10") as echo:
        assert exchange(echo.addr, b"0123456789\n") == b""
        assert echo.stop()["ended"] == {"read_limit": 1}
    with Echo(LOCAL, "--read-limit", "11", SILLY_READ_LIMIT="10") as echo:
        assert exchange(echo.addr, b"0123456789\n") == b"0123456789\n"
        echo.stop()


# ---------------------------------------------------------------------- a bad network


def test_drop_closes_the_connection_instead_of_answering() -> None:
    with Echo(LOCAL, "--drop", "100%") as echo, dialled(echo.addr) as sock:
        sock.sendall(b"one\n")
        assert sock.recv(100) == b""
        summary = echo.stop()
    assert (summary["dropped"], summary["answers"], summary["bytes_out"]) == (1, 0, 0)


def test_late_and_slow_answers_are_correct() -> None:
    data = b"".join(b"line %d\n" % number for number in range(200))
    with Echo(LOCAL, "--delay", "20ms", "--max-rate", "20k") as echo:
        assert exchange(echo.addr, data) == data
        assert echo.stop()["answers"] == 200


def test_a_slow_network_holds_the_sender_back_in_bounded_memory() -> None:
    with Echo(LOCAL, "--raw", "--max-rate", "1k", "--grace", "0s") as echo:
        with dialled(echo.addr) as sock:
            sock.settimeout(1)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 200_000_000:
                    sent += sock.send(bytes(1_000_000))
        echo.stop()
    assert sent < 50_000_000


# -------------------------------------------------------------------------------- UDP


def ask(sock: socket.socket, data: bytes, port: int, host: str = "127.0.0.1") -> bytes:
    sock.sendto(data, (host, port))
    answer, sender = sock.recvfrom(65536)
    assert sender[:2] == (host, port)
    return answer


def udp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30)
    return sock


def counts(**given: int) -> dict[str, int]:
    names = ("received", "sent", "refused", "lost", "dropped_by_kernel", "dropped_by_queue")
    return {**dict.fromkeys(names, 0), **given}


@pytest.mark.parametrize("mode", ["--lines", "--raw"])
def test_udp_echo_on_the_same_port(mode: str) -> None:
    with Echo(LOCAL, "--udp", mode) as echo, udp() as sock:
        assert echo.listening["udp"] == echo.listening["tcp"]
        for data in (b"hello", b"", bytes(60_000)):
            assert ask(sock, data, echo.port) == data
        assert exchange(echo.addr, b"and TCP\n") == b"and TCP\n"
        summary = echo.stop()
    assert summary["datagrams"] == counts(received=3, sent=3)
    assert summary["bytes_in"] == summary["bytes_out"] == 60_005 + 8


@pytest.mark.no_engine
def test_udp_answers_come_from_the_address_of_the_request() -> None:
    with Echo(":0", "--udp") as echo:
        for host in ("127.0.0.1", "127.0.0.2", "::1"):
            with udp(host) as sock:
                assert ask(sock, b"hello", echo.port, host) == b"hello"
        assert echo.stop()["datagrams"]["sent"] == 3


@pytest.mark.no_engine
def test_udp_never_answers_ports_that_may_answer_back() -> None:
    with Echo(LOCAL, "127.0.0.2:0", "--udp") as echo:
        own = [int(addr.rpartition(":")[2]) for addr in echo.listening["udp"]]
        refusals = 0
        for port in (7, 13, 17, 19, 53, 123, 161, 389, 1900, 11211, *own):
            with udp() as sock:
                try:
                    sock.bind(("127.0.0.3", port))
                except PermissionError:
                    continue
                sock.sendto(b"ping", ("127.0.0.1", own[0]))
                refusals += 1
        with udp() as sock:  # datagrams within one machine arrive in order
            assert ask(sock, b"and this?", own[0]) == b"and this?"
        summary = echo.stop()
    assert refusals >= 2
    assert summary["datagrams"] == counts(received=refusals + 1, sent=1, refused=refusals)


@pytest.mark.no_engine
@pytest.mark.parametrize(("mode", "loops"), [("--lines", 1), ("--raw", 40), ("--chargen", 3)])
def test_a_loop_with_another_server_ends(mode: str, loops: int) -> None:
    """One forged datagram must not make two echo servers answer each other for ever."""
    with Echo(LOCAL, "--udp", mode) as echo, udp() as sock:
        addr = ("127.0.0.1", echo.port)
        for number in range(loops):
            sock.sendto(b"forged %d" % number, addr)
        sock.setblocking(False)
        answers = 0
        while answers <= loops * (REPEATS + 1):  # the peer echoes everything
            with udp() as other:  # datagrams within one machine arrive in order
                other.sendto(b"%d" % answers, addr)
                other.recv(65536)
            try:
                answer = sock.recv(65536)
            except BlockingIOError:
                break
            answers += 1
            sock.sendto(answer, addr)
        else:
            raise AssertionError(f"{answers} answers")
        refused = echo.stop()["datagrams"]["refused"]
    assert answers <= loops * REPEATS
    assert refused == loops


@pytest.mark.no_engine
def test_datagrams_that_differ_are_all_answered() -> None:
    with Echo(LOCAL, "--udp") as echo, udp() as sock:
        for number in range(5 * REPEATS):
            assert ask(sock, b"%d" % number, echo.port) == b"%d" % number
        for _ in range(REPEATS):
            assert ask(sock, b"the same", echo.port) == b"the same"
        assert echo.stop()["datagrams"]["refused"] == 0


@pytest.mark.no_engine
def test_udp_discard_and_chargen() -> None:
    with Echo(LOCAL, "--udp", "--chargen") as echo, udp() as sock:
        answers = [ask(sock, b"?", echo.port) for _ in range(50)]
        echo.stop()
    assert all(answer == chargen.BLOCK[: len(answer)] for answer in answers)
    assert len({len(answer) for answer in answers}) > 5
    assert max(map(len, answers)) <= 512
    with Echo(LOCAL, "--udp", "--discard") as echo, udp() as sock:
        sock.sendto(b"?", ("127.0.0.1", echo.port))
        assert exchange(echo.addr, b"x") == b""
        assert echo.stop()["datagrams"] == counts(received=1)


def test_every_datagram_of_a_burst_is_answered_or_counted() -> None:
    with Echo(LOCAL, "--udp") as echo, udp() as sock:
        echo.process.send_signal(signal.SIGSTOP)  # it does not keep up
        sent = 3000
        for number in range(sent):
            sock.sendto(b"%d" % number + bytes(8000), ("127.0.0.1", echo.port))
        echo.process.send_signal(signal.SIGCONT)
        with udp() as other:
            other.settimeout(0.2)
            while True:  # until one comes back, which is after all others
                other.sendto(b"end", ("127.0.0.1", echo.port))
                sent += 1
                with contextlib.suppress(TimeoutError):
                    assert other.recv(100) == b"end"
                    break
        found = echo.stop()["datagrams"]
    assert found["dropped_by_kernel"] > 0
    assert found["received"] + found["dropped_by_kernel"] == sent
    assert found["sent"] == found["received"]


@pytest.mark.no_engine
def test_udp_on_a_bad_network() -> None:
    with Echo(LOCAL, "--udp", "--drop", "1") as echo, udp() as sock:
        sock.sendto(b"?", ("127.0.0.1", echo.port))
        assert exchange(echo.addr, b"x\n") == b""
        assert echo.stop()["dropped"] == 2
    with Echo(LOCAL, "--udp", "--delay", "5ms", "--max-rate", "100") as echo, udp() as sock:
        assert ask(sock, bytes(60), echo.port) == bytes(60)
        sock.sendto(bytes(60), ("127.0.0.1", echo.port))  # worth 0.6 s
        assert exchange(echo.addr, b"served\n") == b"served\n"
        assert echo.stop()["datagrams"] == counts(received=2, sent=1, lost=1)


# ------------------------------------------------------------------- the live view


@pytest.mark.no_engine
@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 6)])
def test_the_view_fits_and_leaves_the_terminal_as_it_was(size: tuple[int, int]) -> None:
    with Terminal("echo", LOCAL, "--udp", size=size) as terminal:
        if size[0] == 20:
            terminal.wait_for("connections")
            terminal.type("\x03")
            assert terminal.end() == 0
            return
        addr = terminal.wait_for(r"127.0.0.1:\d+")
        with dialled(addr) as sock:
            sock.sendall(b"hello\n" * 1000)
            terminal.wait_for(r"^127.0.0.1 +1 +5.86 KiB")
            assert terminal.text.startswith("silly echo --lines")
            assert "█" in terminal.text
            assert terminal.text.count("silly echo") == 1
            terminal.type("\x03")
            assert terminal.end() == 0
        assert "waiting up to 1 s" in terminal.text
        assert "Ctrl-C stops" not in terminal.text
        flat = terminal.text.replace("\n", "")
        assert "connections: 1, at most 1 at a time" in flat
        assert "5.86 KiB in, 5.86 KiB out, 1 000 lines" in flat


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_the_terminal_as_it_was(number: int) -> None:
    with Terminal("echo", LOCAL) as terminal:
        terminal.wait_for(r"127.0.0.1:\d+")
        os.killpg(terminal.process.pid, number)
        assert terminal.end() == 0
        assert "connections: 0" in terminal.text


INTERRUPTING = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from silly.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("moment", "code"),
    [
        ("silly.cli.echo", 130),
        ("click", 130),
        ("silly.cli.echoing.modes", 130),
        ("rich.console", 130),
        ("rich.live", 0),
    ],
)
def test_interrupted_during_startup(moment: str, code: int) -> None:
    """The signal comes while a module is imported: a moment that can be reproduced."""
    command = [sys.executable, "-B", "-c", INTERRUPTING, moment]  # -B: nothing is imported yet
    with Terminal("echo", LOCAL, command=command) as terminal:
        assert terminal.end() == code
        assert ("silly echo: interrupted" if code else "connections: 0") in terminal.text


def test_a_second_signal_ends_the_grace() -> None:
    with Terminal("echo", LOCAL, "--grace", "1h") as terminal:
        with dialled(terminal.wait_for(r"127.0.0.1:\d+")) as sock:
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
            terminal.type("\x03")
            terminal.wait_for("waiting up to 3600 s for 1")
            terminal.process.terminate()  # a second Ctrl-C could merge with the first
            assert terminal.end() == 0
        assert "connections: 1" in terminal.text


@pytest.mark.no_engine
def test_log_lines_can_be_forced_and_colours_left_out() -> None:
    with Terminal("echo", LOCAL, "--log") as terminal:
        addr = terminal.wait_for(r"127.0.0.1:\d+")
        assert exchange(addr, b"x\n") == b"x\n"
        terminal.wait_for(r"close 127.0.0.1:\d+: 2 B in, 2 B out")
        terminal.type("\x03")
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
    colours = rb"\x1b\[(?:\d;)*3\d"
    for no_color, coloured in (("", True), ("1", False)):
        with Terminal("echo", LOCAL, NO_COLOR=no_color) as terminal:
            terminal.wait_for("Ctrl-C stops")
            terminal.wait_for("[▁█]")
            terminal.type("\x03")
            terminal.end()
            assert bool(re.search(colours, terminal.raw)) is coloured
    with Terminal("echo", LOCAL, TERM="dumb") as terminal:
        terminal.wait_for("Listening on")
        terminal.type("\x03")
        terminal.end()
        assert b"\x1b" not in terminal.raw


@pytest.mark.no_engine
def test_many_addresses_fit_a_small_screen() -> None:
    with Terminal("echo", *[LOCAL] * 9, size=(40, 12)) as terminal:
        terminal.wait_for("and 8 more")
        terminal.type("\x03")
        assert terminal.end() == 0


# ----------------------------------------------------------------------- bad input


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["nonsense"], "ADDR 'nonsense' is not an address: it has no port; expected"),
        (["127.0.0.1:99999"], "port 99999 is not in 0 to 65535"),
        (["--raw", "--frames"], "--raw and --frames: choose one mode"),
        (["--lines", "--chargen"], "--lines and --chargen: choose one mode"),
        (["--frames", "--udp"], "--frames and --udp: this mode needs a stream"),
        (["--commands", "--udp"], "--commands and --udp"),
        (["--udp", "unix:/tmp/x"], "--udp and unix:/tmp/x: UDP needs an ADDR with a port"),
        (["--discard", "--drop", "1%"], "--discard and --drop: this mode sends no replies"),
        (["--discard", "--delay", "1s"], "--discard and --delay: this mode sends no replies"),
        ([":5", ":5"], "the same ADDR is given twice"),
        (["--drop", "2"], "'2' is not a probability such as 0.01 or 1%"),
        (["--drop", "-1"], "is not a probability"),
        (["--max-rate", "0"], "'0' is not a rate such as 64k"),
        (["--delay", "soon"], "'soon' is not a duration"),
        (["--max-connections", "0"], "--max-connections"),
        (["--idle-timeout", "0s"], "--idle-timeout"),
        (["--exempt-networks", "10.0.0.1/8"], "--exempt-networks"),
        (["--proxy-protocol", "10.0.0.1/8"], "10.0.0.1/8 has host bits set; expected a network"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_bad_usage_is_one_line(args: list[str], why: str) -> None:
    assert why in misused("echo", *args)


@pytest.mark.no_engine
def test_a_wrong_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILLY_PROXY_PROTOCOL", "10.0.0.1/8")
    assert "SILLY_PROXY_PROTOCOL" in misused("echo", LOCAL)


TAKEN = """
import errno, sys
from silly.cli import echo, main
bind, tried = echo.Datagrams, []
def datagrams(loop, addr, *args):
    tried.append(addr)
    if len(tried) == 1:  # another program has this port, but for UDP only
        raise OSError(errno.EADDRINUSE, "Address already in use", addr)
    return bind(loop, addr, *args)
echo.Datagrams = datagrams
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.no_engine
def test_a_port_that_is_free_for_both_is_found() -> None:
    with started("echo", "--udp", "--json", LOCAL, command=[sys.executable, "-c", TAKEN]) as one:
        (addr,) = json.loads(one.stdout.readline())["tcp"]
        with udp() as sock:
            assert ask(sock, b"hello", int(addr.rpartition(":")[2])) == b"hello"
        one.send_signal(signal.SIGTERM)
        assert one.wait(30) == 0


def test_an_address_in_use_is_one_line_and_nothing_stays_bound(tmp_path: Path) -> None:
    with Echo(LOCAL) as echo:
        line = refused("echo", f"unix:{tmp_path}/x.sock", echo.addr, code=3)
        echo.stop()
    assert line.startswith(f"silly echo: cannot listen on {echo.addr}: Address already in use; ")
    assert not (tmp_path / "x.sock").exists()


@pytest.mark.no_engine
def test_a_udp_port_in_use_is_one_line() -> None:
    with udp() as sock:
        sock.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{sock.getsockname()[1]}"
        assert f"cannot listen on {addr}: Address already in use" in refused(
            "echo", "--udp", addr, code=3
        )


@pytest.mark.no_engine
def test_an_address_of_another_machine_is_one_line() -> None:
    assert "no interface of this machine has it" in refused("echo", "192.0.2.1:5", code=3)


@pytest.mark.no_engine
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_port_that_needs_privileges_is_one_line() -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first.exists() or int(first.read_text()) < 1000:
        pytest.skip("every port is free to use here")
    without = ["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]
    command = [*SILLY, "echo", "127.0.0.1:999"]
    done = subprocess.run(
        [*(without if os.getuid() == 0 else []), *command],
        capture_output=True, text=True, check=False, timeout=40,
    )  # fmt: skip
    assert done.returncode == 3, done
    assert done.stderr == (
        "silly echo: cannot listen on 127.0.0.1:999: Permission denied; ports below 1024 need "
        "privileges: choose a higher one\n"
    )


@pytest.mark.no_engine
def test_help_has_examples_groups_exit_codes_and_every_limit() -> None:
    from silly.net.limits import Limits

    told = silly("echo", "--help").stdout.decode()
    groups = ("Mode (choose one)", "Simulated bad network", "TLS", "Limits", "Output", "Exit codes")
    for part in (f"{group}:" for group in groups):
        assert f"\n{part}\n" in told
    assert len(re.findall(r"^  silly echo", told, re.MULTILINE)) >= 4
    for each in Limits.fields():
        assert each.flag in told
    assert json.loads(json.dumps(told))
    assert max(map(len, told.splitlines())) <= 90
