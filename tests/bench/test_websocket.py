"""Load on WebSocket servers: every message is checked, and each failure has its name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from silly.bench import fan_out_lane
from silly.bench.clock import clock
from silly.bench.fleet import summed
from silly.bench.generator import Generator
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder
from silly.bench.result import schema
from silly.bench.sizes import Sizes
from silly.bench.websocket_replies import Channel, WebSocketReplies
from silly.bench.websocket_target import WebSocketTarget
from silly.net import http, tcp, tls, websocket
from silly.net.conn import Conn
from silly.net.limits import Limits
from silly.net.websocket.codes import BINARY, CLOSE, FIN, PING, TEXT
from silly.net.websocket.kinds import frame
from silly.net.websocket.session import Session
from silly.testing.faults import Faults, proxy
from tests.cli.terminal import DEADLINE, SILLY, environment, misused
from tests.net.http.wire import ANY
from tests.net.tls import certificates

URL = "ws://127.0.0.1:1/"


# --------------------------------------------------------------------- one connection's messages


def replies_of(sent: int, *, is_binary: bool = False, **settings: Any) -> WebSocketReplies:
    target = WebSocketTarget(URL, is_binary)
    plan = Plan.of_websocket(target, **settings)
    session = Session(target.limits, None, is_client=True, clock=lambda: 0.0)
    channel = Channel(session, lambda _: None, is_binary=is_binary)
    made = WebSocketReplies(channel, plan.factory()(0))
    made.request(sent)
    return made


def received(replies: WebSocketReplies, data: bytes, step: int) -> tuple[int, str]:
    """Return how many messages in *data* are right, and the kind of what ends that."""
    right = 0
    for at in range(0, len(data), step):
        right += replies.receive(data[at : at + step])
    return right, replies.diagnose().kind if replies.is_wrong else ""


def text(number: int | bytes) -> bytes:
    return frame(FIN | TEXT, b"n%d" % number if isinstance(number, int) else number)


def closing(code: int) -> bytes:
    return frame(FIN | CLOSE, code.to_bytes(2, "big") + b"why")


MESSAGES: list[tuple[bytes, int, str]] = [
    (text(0) + text(1) + text(2), 3, ""),
    (text(0) + frame(FIN | PING, b"?") + frame(TEXT, b"n") + frame(FIN, b"1"), 2, ""),
    (text(0) + text(2) + text(1), 1, "reordered"),
    (text(0) + text(0) + text(1), 1, "duplicate"),
    (text(0) + text(b"x1") + text(2), 1, "corrupt"),
    (text(0) + text(b"n1n2"), 1, "corrupt"),  # the right bytes, but one message of two
    (text(0) + text(b"n") + text(b"1") + text(2), 1, "corrupt"),
    (text(0) + frame(FIN | BINARY, b"n1"), 1, "corrupt"),
    (text(0) + text(1) + text(2) + text(3), 3, "unasked"),
    (text(0) + text(1) + text(2) + text(b""), 3, "unasked"),
    (text(0) + closing(1011), 1, "closed 1011"),
    (text(0) + closing(4321), 1, "closed 4321"),
    (text(0) + frame(FIN | CLOSE, b""), 1, "closed 1005"),
    (text(0) + closing(1005), 1, "invalid"),
    (text(0) + frame(FIN | TEXT, b"n1", b"mask"), 1, "invalid"),
    (text(0) + text(b"\xff"), 1, "invalid"),
]


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(("data", "right", "kind"), MESSAGES)
def test_messages_are_judged_the_same_at_every_split(
    data: bytes, right: int, kind: str, step: int
) -> None:
    assert received(replies_of(3, template=b"n{seq}"), data, step) == (right, kind)


def test_what_is_sent_is_masked_and_of_its_kind() -> None:
    peer = Session(Limits(), None, is_client=False, clock=lambda: 0.0)
    replies = replies_of(0, sizes=Sizes.parse("20-300"))
    messages = peer.receive(replies.request(50) + replies.farewell())
    assert [str(message)[:10] for message in messages] == [f"{n:010}" for n in range(50)]
    assert all(20 <= len(message) <= 300 for message in messages)
    assert replies.farewell() == b""  # said once
    peer.settle()
    assert (peer.is_over, peer.code) == (True, 1000)
    peer = Session(Limits(), None, is_client=False, clock=lambda: 0.0)
    (message,) = peer.receive(replies_of(0, is_binary=True, template=b"\xff").request(1))
    assert message == b"\xff"


def test_a_partial_message_is_known_as_such() -> None:
    replies = replies_of(2, template=b"n{seq}")
    assert replies.receive(text(0) + text(1)[:3]) == 1
    assert replies.progress()[0]
    assert replies.receive(text(1)[3:]) == 1
    assert replies.progress() == (0, None)


# ------------------------------------------------------------------------------ whole runs


async def load(addr: object, handler: Any = None, **settings: Any) -> tuple[Interval, Recorder]:
    """Load the server at *addr* as one worker does; return the figures."""
    intervals: list[Interval] = []
    recorder = Recorder(60.0, intervals.append, lambda: 0.0)
    own = {
        name: settings.pop(name)
        for name in list(settings)
        if name in WebSocketTarget.__annotations__
    }
    target = WebSocketTarget(f"ws://{addr}/", **own)
    plan = Plan.of_websocket(target, **{"max_errors": 10, **settings})
    plan.check()
    generator = Generator(plan, 0, recorder)
    await generator.open()
    await generator.run(clock())
    recorder.report(clock())
    return summed(intervals), recorder


class Echo:
    """Sends messages back, and counts what a server sees."""

    def __init__(self) -> None:
        self.opened = self.messages = 0
        self.kinds: set[type] = set()
        self.codes: Counter[int | None] = Counter()

    async def __call__(self, ws: websocket.WebSocket) -> None:
        self.opened += 1
        async for message in ws:
            self.messages += 1
            self.kinds.add(type(message))
            await ws.send(message)
        self.codes[ws.close_code] += 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("settings", "opened"),
    [
        ({}, 3),
        ({"depth": 7, "is_binary": True}, 3),
        ({"mode": "reconnect"}, 60),
        ({"rate": 5000.0, "depth": 3, "sizes": Sizes.parse("1:50%,70000:50%")}, 3),
        ({"mode": "reconnect", "rate": 5000.0}, 60),
        ({"pairs": ((b"{seq} {conn}", b"{seq} {conn}"),), "depth": 5}, 3),
    ],
)
async def test_figures_are_those_of_the_server(settings: dict[str, Any], opened: int) -> None:
    echo = Echo()
    async with websocket.listen(ANY, echo) as listener:
        figures, _ = await load(listener.local_addr, requests=60, connections=3, **settings)
    assert (figures.requests, figures.sent, figures.errors) == (60, 60, {})
    assert (echo.messages, echo.opened) == (60, opened)
    assert echo.kinds == {bytes if settings.get("is_binary") else str}
    assert echo.codes == {1000: opened}  # each one was closed as the protocol wants it
    assert figures.upgrades is not None
    assert figures.upgrades.count == opened


@pytest.mark.heavy
async def test_held_connections_answer_pings() -> None:
    echo = Echo()

    async def pinging(ws: websocket.WebSocket) -> None:
        await ws.ping()
        await echo(ws)

    async with websocket.listen(ANY, pinging) as listener:
        figures, _ = await load(listener.local_addr, mode="hold", duration=0.05, connections=4)
    assert (figures.requests, figures.errors, echo.codes) == (4, {}, {1000: 4})


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("more", "agent"), [((), "silly-bench"), ((("User-Agent", "other"),), "other")]
)
async def test_what_opens_a_websocket_is_as_asked_for(
    more: tuple[tuple[str, str], ...], agent: str
) -> None:
    seen: list[tuple[str | None, ...]] = []

    async def handler(request: http.Request) -> None:
        seen.append((request.target, request.headers.get("x-a"), request.headers.get("origin")))
        ws = await websocket.accept(request, subprotocols=("b",))
        seen.append((ws.subprotocol, request.headers.get("user-agent"), None))
        await Echo()(ws)

    async with http.listen(ANY, handler) as listener:
        figures, _ = await load(
            f"{listener.local_addr}/room{{conn}}?x=",
            headers=(("X-A", "c{conn}"), ("Origin", "http://o"), *more),
            subprotocols=("a", "b"),
            requests=1,
            connections=1,
        )
    assert figures.requests == 1
    assert seen == [("/room0?x=/", "c0", "http://o"), ("b", agent, None)]


@pytest.mark.parametrize("is_binary", [False, True])
async def test_compressed_messages(is_binary: bool) -> None:
    wire: list[int] = []

    async def handler(ws: websocket.WebSocket) -> None:
        async for message in ws:
            assert isinstance(message, bytes) is is_binary
            await ws.send(message)
        wire.append(ws._conn._counts[0])

    async with websocket.listen(ANY, handler) as listener:
        figures, _ = await load(
            listener.local_addr,
            compresses=True,
            is_binary=is_binary,
            template=b"x" * 10_000,
            requests=3,
            connections=1,
        )
    assert (figures.requests, sum(figures.errors.values())) == (3, 0)
    assert wire[0] < 1000


# ------------------------------------------------------------------------------- failures


async def closes(ws: websocket.WebSocket) -> None:
    await ws.recv()
    await ws.close(4000, "enough")


async def aborts(ws: websocket.WebSocket) -> None:
    await ws.recv()
    ws.abort()


async def changes(ws: websocket.WebSocket) -> None:
    async for message in ws:
        await ws.send(str(message).replace("a", "b"))


async def silent(ws: websocket.WebSocket) -> None:
    async for _ in ws:
        pass


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("serve", "kind", "example", "settings"),
    [
        (
            closes,
            "closed 4000",
            "the server closed the WebSocket: 4000, enough; request 0 was unanswered",
            {},
        ),
        (aborts, "lost connection", "while request 0 was unanswered", {}),
        (changes, "corrupt", "request 0: byte 18 of the reply is wrong", {}),
        (silent, "timeout", "no reply within 100 ms", {"timeout": 0.1}),
    ],
)
async def test_failures_have_kinds(
    serve: websocket.Handler, kind: str, example: str, settings: dict[str, Any]
) -> None:
    async with websocket.listen(ANY, serve) as listener:
        figures, recorder = await load(listener.local_addr, requests=2, connections=1, **settings)
    assert figures.errors == {kind: 2}
    assert figures.requests == 0
    assert example in recorder.first_errors[kind][0]


@pytest.mark.heavy
async def test_the_messages_in_flight_are_abandoned_with_a_close() -> None:
    async with websocket.listen(ANY, closes) as listener:
        figures, _ = await load(listener.local_addr, requests=4, connections=1, depth=4)
    assert figures.errors == {"closed 4000": 1, "abandoned": 3}


Serve = Callable[[Conn], Awaitable[None]]


def raw(answer: bytes, after: bytes | None = None) -> Serve:
    """Return what sends *answer* to a handshake, and then *after*, once something has come."""

    async def serve(conn: Conn) -> None:
        head = await conn.read(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        assert key is not None
        digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        await conn.write(answer.replace(b"ACCEPT", base64.b64encode(digest)))
        if after is not None:
            await conn.read()
            await conn.write(after)

    return serve


UPGRADE = (
    b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: ACCEPT\r\n\r\n"
)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("answer", "after", "kind", "example"),
    [
        (
            b"HTTP/1.1 403 No\r\ncontent-length: 7\r\n\r\nno \x1b[1m",
            None,
            "refused 403",
            "the server answered 403: no \\x1b[1m",
        ),
        (b"220 ready\r\n\r\n", None, "handshake", "not a response of HTTP/1.1"),
        (UPGRADE.replace(b"ACCEPT", b"x"), None, "handshake", "does not match the key"),
        (b"HTTP/1.1 101", None, "handshake", "without a whole response"),
        (UPGRADE, b"", "closed", "the server closed the connection while request 0"),
        (UPGRADE, b"\x81\x7e", "truncated", "bytes of its reply had arrived"),
        (UPGRADE, b"\xf1", "invalid", "the server broke the protocol: reserved bits"),
    ],
)
async def test_what_is_no_websocket_is_named(
    answer: bytes, after: bytes | None, kind: str, example: str
) -> None:
    async with tcp.listen(ANY, raw(answer, after)) as listener:
        figures, recorder = await load(listener.local_addr, requests=1, connections=1, max_errors=1)
    assert figures.errors == {kind: 1}
    assert example in recorder.first_errors[kind][0]


@pytest.mark.heavy
async def test_a_handshake_that_is_not_answered_times_out() -> None:
    async def serve(conn: Conn) -> None:
        await conn.wait_closed()

    async with tcp.listen(ANY, serve) as listener:
        figures, recorder = await load(
            listener.local_addr, requests=1, connections=1, max_errors=1, timeout=0.1
        )
    assert figures.errors == {"handshake": 1}
    assert "no WebSocket within --timeout" in recorder.first_errors["handshake"][0]


# -------------------------------------------------------------------------------- fan-out


class Room:
    """Passes each message on to all, as *change* makes it for each; counts what it has sent."""

    def __init__(self, change: Callable[[int, int, str | bytes], list[str | bytes]]) -> None:
        self.change = change
        self.members: list[websocket.WebSocket] = []
        self.received = self.passed_on = 0

    async def __call__(self, ws: websocket.WebSocket) -> None:
        self.members.append(ws)
        async for message in ws:
            for at, member in enumerate(self.members):
                for each in self.change(at, self.received, message):
                    self.passed_on += 1
                    with contextlib.suppress(websocket.WebSocketClosed):
                        await member.send(each)
            self.received += 1
        self.members.remove(ws)


def unchanged(_member: int, _number: int, message: str | bytes) -> list[str | bytes]:
    return [message]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 4, "is_binary": True},
        {"rate": 2000.0, "depth": 8},
        {"pairs": ((b"{seq}", b"{seq}"),), "depth": 3},
    ],
)
async def test_every_receiver_gets_every_message(settings: dict[str, Any]) -> None:
    room = Room(unchanged)
    async with websocket.listen(ANY, room) as listener:
        figures, _ = await load(
            listener.local_addr, requests=30, connections=5, fan_out=True, **settings
        )
    assert (figures.sent, room.received, figures.errors) == (30, 30, {})
    assert figures.requests == 30 * 5
    assert room.passed_on == 30 * 6  # the sender gets its own messages, too: they do not count
    assert figures.upgrades is not None
    assert figures.upgrades.count == 6


def loses(member: int, number: int, message: str | bytes) -> list[str | bytes]:
    return [] if (member, number) == (1, 2) else [message]


def doubles(member: int, number: int, message: str | bytes) -> list[str | bytes]:
    return [message] * (2 if (member, number) == (1, 2) else 1)


def adds(member: int, number: int, message: str | bytes) -> list[str | bytes]:
    return [message, "more"] if (member, number) == (1, 2) else [message]


def swaps() -> Callable[[int, int, str | bytes], list[str | bytes]]:
    held: list[str | bytes] = []

    def change(member: int, number: int, message: str | bytes) -> list[str | bytes]:
        if (member, number) == (1, 2):
            held.append(message)
            return []
        return [message, held.pop()] if (member, number) == (1, 3) else [message]

    return change


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("change", "kind", "example"),
    [
        (loses, "lost", "message 2 had not reached 1 of 3 receivers within 100 ms"),
        (doubles, "duplicate", "message 2 came twice"),
        (adds, "unasked", "a text message that was not sent: b'more'"),
        (swaps(), "reordered", "message 2 came after message 3"),
    ],
)
async def test_each_wrong_delivery_is_counted(
    change: Callable[[int, int, str | bytes], list[str | bytes]], kind: str, example: str
) -> None:
    async with websocket.listen(ANY, Room(change)) as listener:
        figures, recorder = await load(
            listener.local_addr, requests=8, connections=3, fan_out=True, depth=2, timeout=0.1
        )
    assert figures.errors == {kind: 1}
    assert example in recorder.first_errors[kind][0]
    assert figures.requests == 8 * 3 - (kind == "lost")
    assert figures.unanswered == (kind == "lost")


@pytest.mark.heavy
async def test_a_failed_receiver_has_all_connections_opened_again() -> None:
    room = Room(unchanged)
    closing = []

    def change(member: int, number: int, message: str | bytes) -> list[str | bytes]:
        if (member, number) == (0, 3):
            closing.append(asyncio.ensure_future(room.members[0].close(1012)))
            return []
        return [message]

    room.change = change
    async with websocket.listen(ANY, room) as listener:
        figures, _ = await load(listener.local_addr, requests=8, connections=3, fan_out=True)
    assert figures.errors["closed 1012"] == 1
    assert figures.errors.keys() <= {"closed 1012", "abandoned"}
    assert figures.upgrades is not None
    assert (figures.upgrades.count, figures.sent) == (8, 8)
    assert figures.requests + figures.unanswered == 8 * 3


def holds_until(later: int) -> Callable[[int, int, str | bytes], list[str | bytes]]:
    """Hold back what member 1 should get as message 2 until message *later*."""
    held: list[str | bytes] = []

    def change(member: int, number: int, message: str | bytes) -> list[str | bytes]:
        if (member, number) == (1, 2):
            held.append(message)
            return []
        return [*(held if (member, number) == (1, later) else ()), message]

    return change


@pytest.mark.heavy
async def test_what_comes_after_it_counted_as_lost_is_not_counted_again() -> None:
    async with websocket.listen(ANY, Room(holds_until(3))) as listener:
        figures, _ = await load(
            listener.local_addr, requests=5, connections=3, fan_out=True, timeout=0.1
        )
    assert figures.errors == {"lost": 1}
    assert (figures.requests, figures.unanswered) == (5 * 3 - 1, 1)


@pytest.mark.heavy
async def test_only_the_last_messages_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out_lane, "_REMEMBERED", 1)
    async with websocket.listen(ANY, Room(holds_until(9))) as listener:
        figures, recorder = await load(
            listener.local_addr, requests=12, connections=3, fan_out=True, depth=2, timeout=0.1
        )
    assert figures.errors == {"lost": 1, "unasked": 1}
    assert "a text message that was not sent" in recorder.first_errors["unasked"][0]
    assert figures.requests == 12 * 3 - 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("faults", "kind"),
    [(Faults(half_close_after=400), "closed"), (Faults(reset_after=400), "lost connection")],
)
async def test_a_receiver_whose_connection_fails_is_named(faults: Faults, kind: str) -> None:
    async with (
        websocket.listen(ANY, Room(unchanged)) as listener,
        proxy(ANY, listener.local_addr, down=lambda n: faults if n == 0 else Faults()) as between,
    ):
        figures, recorder = await load(
            between.local_addr, requests=20, connections=2, fan_out=True, timeout=30.0
        )
    assert figures.errors[kind] == 1
    assert figures.errors.keys() <= {kind, "abandoned"}
    assert re.match(r"connection [01]: ", recorder.first_errors[kind][0])  # the first one accepted
    assert figures.requests + figures.unanswered == 20 * 2


@pytest.mark.heavy
async def test_a_room_that_is_full_ends_the_run() -> None:
    """Only a complete set of connections is used, and those that could be opened are closed."""
    codes: list[int | None] = []

    async def handler(request: http.Request) -> http.Response | None:
        if len(entered) == 2:
            return http.Response("full", status=503)
        entered.append(request)
        ws = await websocket.accept(request)
        async for _ in ws:
            pass
        entered.remove(request)
        codes.append(ws.close_code)
        return None

    entered: list[http.Request] = []
    async with http.listen(ANY, handler) as listener:
        figures, recorder = await load(
            listener.local_addr, requests=3, connections=3, fan_out=True, max_errors=2
        )
    assert figures.sent == figures.requests == 0
    assert figures.errors == {"refused 503": 2}
    assert re.match(r"connection \d: .* answered 503", recorder.first_errors["refused 503"][0])
    assert set(codes) == {1000}
    assert entered == []


# ---------------------------------------------------------------------------- the command


@pytest.mark.no_engine
async def test_the_command_shows_fan_out() -> None:
    async with websocket.listen(ANY, Room(unchanged)) as listener:
        done = await asyncio.to_thread(
            subprocess.run,
            [*SILLY, "bench", f"ws://{listener.local_addr}/", "--fan-out", "-t", "200ms", "-c", "3",
             "-d", "2", "--interval", "50ms", "--json", "-"],
            capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema()).validate(result)
    messages = result["fan_out"]["messages"]
    assert (result["fan_out"]["receivers"], result["fan_out"]["delivered"]) == (3, messages * 3)
    assert "one sender, 3 receivers, 2 messages in flight" in done.stderr
    assert re.search(r"^fan-out +[\d ]+ messages? to 3 receivers: ", done.stderr, re.MULTILINE)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["127.0.0.1:1", "--binary"], "--binary needs a URL such as ws://127.0.0.1:1/"),
        (["http://127.0.0.1:1/", "--subprotocol", "a"], "--subprotocol needs a URL such as ws://"),
        ([URL, "-X", "GET"], "--method needs a URL such as http://"),
        ([URL, "--framing", "raw"], "--framing and a URL: a WebSocket has messages"),
        ([URL, "--udp"], "--udp and a URL: WebSockets need connections"),
        ([URL, "--tls"], "--tls and ws://"),
        ([URL, "--subprotocol", "a b"], "--subprotocol: not the name of a subprotocol"),
        ([URL, "-H", "Upgrade: x"], "--header: upgrade is set"),
        ([URL, "--template", r"\xff"], "--template is not UTF-8: use --binary"),
        ([URL, "--size", "1G"], "--size: a message has 67108864 bytes at most"),
        (["ws://"], "must begin with"),
        (["http://127.0.0.1:1/", "--fan-out"], "--fan-out needs a URL such as ws://"),
        ([URL, "--fan-out", "--workers", "2"], "--fan-out and --workers"),
        ([URL, "--fan-out", "--mode", "hold"], "--fan-out and --mode hold"),
        ([URL, "--fan-out", "--template", "a"], "--fan-out and --template: each reply needs {seq}"),
        ([URL, "--fan-out", "--size", "5"], "--fan-out needs --size 18 or more"),
    ],
)
def test_misuse_is_one_line(args: list[str], line: str) -> None:
    assert line in misused("bench", *args)


@pytest.mark.no_engine
async def test_the_command_measures_wss(tmp_path: Path) -> None:
    echo = Echo()
    pair = tls.Server(*certificates.pair())
    async with websocket.listen(ANY, echo, tls=pair) as listener:
        done = await asyncio.to_thread(
            subprocess.run,
            [*SILLY, "bench", f"wss://u:secret@{listener.local_addr}/", "-n", "20", "-c", "2",
             "--ca", certificates.ca_file(), "--json", "-", "--html", str(tmp_path / "r.html"),
             "--assert", "errors==0"],
            capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema()).validate(result)
    assert (result["requests"], echo.messages) == (20, 20)
    assert result["plan"]["websocket"] == {
        "url": f"wss://{listener.local_addr}/",
        "binary": False,
        "headers": [],
        "subprotocols": [],
        "compression": False,
    }
    assert result["websocket"]["opened"]["count"] == result["tls"]["full"]["count"] == 2
    assert "secret" not in json.dumps(result["plan"])
    assert "text messages, closed loop, 2 connections" in done.stderr
    assert "opening     2 WebSockets" in done.stderr
    assert result["addr"] in (tmp_path / "r.html").read_text()
