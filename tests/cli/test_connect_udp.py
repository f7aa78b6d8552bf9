"""``silly connect --udp``: lines as datagrams, through a pipe and on a terminal."""

from __future__ import annotations

import pytest

from tests.cli.terminal import DEADLINE, Echo, Terminal, refused, silly, started

LOCAL = "127.0.0.1:0"


def test_each_line_is_a_datagram() -> None:
    with Echo(LOCAL, "--udp") as echo:
        done = silly(
            "connect", echo.addr, "--udp", "--idle-timeout", "0.5s", data=b"one\ntwo\nunfinished"
        )
        datagrams = echo.stop()["datagrams"]
    assert done.stdout == b"one\ntwo\nunfinished"
    assert (datagrams["received"], datagrams["sent"]) == (3, 3)


def test_it_ends_when_nothing_more_comes() -> None:
    with Echo(LOCAL, "--udp", "--discard") as echo:
        assert silly("connect", echo.addr, "--udp", data=b"one\n").stdout == b""
        assert echo.stop()["datagrams"]["received"] == 1


def test_nobody_there(port: int) -> None:
    done = silly("connect", f"127.0.0.1:{port}", "--udp", data=b"one\n", code=1)
    assert done.stderr.decode() == f"silly connect: 127.0.0.1:{port}: Connection refused\n"


def test_it_ends_when_nothing_comes_although_the_input_goes_on() -> None:
    with Echo(LOCAL, "--udp", "--discard") as echo:
        with started("connect", echo.addr, "--udp", "--idle-timeout", "50ms") as process:
            assert process.wait(DEADLINE) == 1
            error = process.stderr.read().decode()
    assert error.startswith(f"silly connect: {echo.addr}: ")
    assert error.count("\n") == 1


def test_a_signal_ends_it() -> None:
    with Echo(LOCAL, "--udp") as echo:
        with started("connect", echo.addr, "--udp") as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"hello\n"
            process.terminate()
            assert process.wait(DEADLINE) == 143
            assert process.stderr.read() == b""


def test_on_a_terminal() -> None:
    with Echo(LOCAL, "--udp") as echo:
        with Terminal("connect", echo.addr, "--udp") as terminal:
            terminal.wait_for(f"^Sending to {echo.addr}")
            terminal.wait_for_prompt()
            terminal.type("hello\r")
            terminal.wait_for("^hello\n(.*\n)*hello$")
            terminal.wait_for_prompt()
            terminal.type("\x04")
            assert terminal.end() == 0
        assert echo.stop()["datagrams"]["received"] == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--listen",), "`silly echo --udp` is a server"),
        (("--tls",), "not encrypted"),
        (("--proxy-header", "192.0.2.1:1"), "only a connection"),
    ],
)
def test_what_udp_cannot_do_is_said(options: tuple[str, ...], text: str) -> None:
    assert text in refused("connect", "127.0.0.1:9", "--udp", *options, code=2)
    assert "needs an ADDR with a port" in refused("connect", "unix:/x", "--udp", code=2)
