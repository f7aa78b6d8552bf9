"""``silly echo --websocket`` and ``silly connect ws://…``: through a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys

import pytest

from silly.cli.connecting import messages
from silly.cli.connecting.messages import open_websocket
from silly.net import websocket
from silly.testing.faults import Faults, proxy
from tests.cli.terminal import DEADLINE, Echo, Terminal, refused, silly, started

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


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("options", "answers"), [(("--delay", "10ms", "--max-rate", "1k"), 2), (("--drop", "1"), 0)]
)
def test_a_bad_network(options: tuple[str, ...], answers: int) -> None:
    with Echo(LOCAL, "--websocket", *options) as echo:
        code = 0 if answers else 1
        url = f"ws://{echo.addr}/"
        done = silly("connect", url, "--idle-timeout", "0.5s", data=b"one\ntwo\n", code=code)
        assert done.stdout.splitlines() == [b"one", b"two"][:answers]
        summary = echo.stop()
    assert (summary["answers"], summary["dropped"] > 0) == (answers, not answers)


@pytest.mark.no_engine
async def test_why_a_websocket_was_closed_is_said() -> None:
    async def close(ws: websocket.WebSocket) -> None:
        await ws.close(4000, "because")

    said: list[str] = []
    async with websocket.listen(LOCAL, close) as listener:
        url = f"ws://{listener.local_addr}/"
        opened = await open_websocket(url, 30, None, is_binary=False, pings=True, say=said.append)
        async with opened:
            with pytest.raises(websocket.WebSocketClosed):
                await opened.read()
            assert opened._pinging is not None
            await opened._pinging
    assert said[-1].startswith("Closed: 4000")
    assert said[-1].endswith(", because")


@pytest.mark.no_engine
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_peer_that_does_not_close_is_not_waited_for(
    at_once: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "_CLOSE_TIME", 0.01)

    async def receive(ws: websocket.WebSocket) -> None:
        with contextlib.suppress(websocket.WebSocketClosed):
            await ws.recv()

    said: list[str] = []
    async with (
        websocket.listen(LOCAL, receive) as listener,
        proxy(LOCAL, listener.local_addr, up=Faults(stall_after=1000)) as between,
    ):
        url = f"ws://{between.local_addr}/"
        opened = await open_websocket(url, 30, None, is_binary=False, pings=False, say=said.append)
        async with opened:
            await opened.write(os.urandom(2000).hex().encode() + b"\n")  # compressed: 2000 bytes
            if at_once:
                opened.abort()
    assert said == ["Closed: 1006 (connection lost without a close frame)"]


@pytest.mark.no_engine
def test_without_the_extra_it_says_so() -> None:
    code = "import sys\nsys.modules['httptools'] = None\nfrom silly.cli import main\n"
    command = [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))"]
    with started("connect", "ws://127.0.0.1:9/", command=command) as process:
        _, errors = process.communicate(b"", timeout=DEADLINE)
    assert process.returncode == 2
    assert b"httptools" in errors
    assert errors.count(b"\n") == 1
