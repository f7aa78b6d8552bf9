"""``silly echo --websocket`` and ``silly connect ws://…``: through a pipe and on a terminal."""

from __future__ import annotations

import pytest

from tests.cli.terminal import Echo, Terminal, refused, silly

LOCAL = "127.0.0.1:0"


def test_each_line_is_a_message() -> None:
    with Echo(LOCAL, "--websocket") as echo:
        url = f"ws://{echo.addr}/any/path"
        done = silly("connect", url, "--idle-timeout", "0.5s", data="one\ntwö\nend".encode())
        assert done.stdout == "one\ntwö\nend\n".encode()
        assert done.stderr.decode() == "Closed: 1000 (normal closure)\n"
        done = silly(
            "connect", url, "--binary", "--ping", "--idle-timeout", "0.5s", data=b"\xff\n\0"
        )
        assert done.stdout == b"\xff\n\0"
        assert "pong after " in done.stderr.decode()
        assert echo.stop()["answers"] == 5


def test_on_a_terminal_and_how_it_ends() -> None:
    with Echo(LOCAL, "--websocket") as echo:
        with Terminal("connect", f"ws://{echo.addr}/") as terminal:
            terminal.wait_for(f"^Connected to {echo.addr}")
            terminal.wait_for_prompt()
            terminal.type("hello\r")
            terminal.wait_for("^hello\n(.*\n)*hello$")
            echo.stop()
            terminal.wait_for(r"^Closed: 1001 \(going away\)")
            assert terminal.end() == 0


@pytest.mark.no_engine
def test_what_does_not_go_together() -> None:
    url = "ws://127.0.0.1:9/"
    for option in ("--listen", "--udp", "--crlf"):
        assert "not with a WebSocket" in refused("connect", url, option, code=2)
    assert "needs the URL" in refused("connect", "127.0.0.1:9", "--ping", code=2)
    assert "begins with wss://" in refused("connect", url, "--tls", code=2)


def test_what_is_no_websocket() -> None:
    with Echo(LOCAL, "--http") as echo:
        text = refused("connect", f"ws://{echo.addr}/", code=1)
        assert "the server answered 200, not 101" in text
