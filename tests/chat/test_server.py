"""The complete server: every message of its protocol, on one process and on many."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from silly.net import http, websocket
from tests.chat.harness import CHAT, DEADLINE, Client, client, serving
from tests.ports import held_port
from tests.pubsub.brokers import running

pytestmark = pytest.mark.no_engine


def test_every_message() -> None:
    async def talk(addr: str) -> None:
        async with client(addr, greeted=False) as first:
            welcome = await first.hears("welcome", user_id=1, user_name="User1")
            assert welcome["message"] == "Welcome to the chat, User1!"
            figures = {"users_online", "uptime_seconds", "server_time"}
            assert welcome["server_stats"].keys() == figures
            users = (await first.hears("users"))["users"]
            assert [(each["id"], each["name"]) for each in users] == [(1, "User1")]
            assert users[0]["connected_at"] > 1e9
            async with client(addr) as second, client(addr) as third:
                await first.hears("join", user_id=2, user_name="User2", users_online=2)
                await first.hears("join", user_id=3, user_name="User3", from_id=0)
                await second.hears("join", user_id=3, users_online=3)
                await _talk(first, second, third)
            left = {(await first.hears("leave", from_id=0))["user_id"] for _ in range(2)}
            assert left == {2, 3}
            await first.say("get_stats")
            await first.hears("stats", users_online=1)

    with serving("server.py") as (_, addr):
        asyncio.run(talk(addr))


async def _talk(first: Client, second: Client, third: Client) -> None:
    await first.say("message", content="hello <b>all</b>")
    for each in (second, third):
        await each.hears("message", from_id=1, from_name="User1", content="hello <b>all</b>")
    await first.say("message", content="")  # ignored
    await first.say("set_name", name="  Jörg ")
    await first.hears("name_changed", old_name="User1", new_name="Jörg")
    for each in (second, third):
        await each.hears("user_renamed", user_id=1, old_name="User1", new_name="Jörg")
    await second.say("private_message", to_id=1, content="psst")
    await second.hears("private_message_sent", to_id=1, to_name="Jörg", content="psst")
    await first.hears("private_message", from_id=2, from_name="User2", content="psst")
    await third.say("get_users")
    users = (await third.hears("users"))["users"]
    assert [each["name"] for each in users] == ["Jörg", "User2", "User3"]
    for text in ("{", "[" * 5000, "[]", "{}", '{"type": 5}', b"\xff"):
        await first.ws.send(text)
        await first.hears("error")
    for kind in ("nonsense", "__init__", "a b", "set_name\n"):
        await first.say(kind)
        await first.complains("Unknown type of message: ")
    for name in ("", " ", "x" * 21, "é" * 11, "a\nb", "\ud800", 5, None):
        await first.say("set_name", name=name)
        await first.complains("A name")
    await first.say("private_message", to_id=99, content="x")
    await first.complains("There is no such user")
    for wrong in ([1], "1", None, 1.5):
        await first.say("private_message", to_id=wrong, content="x")
        await first.complains("There is no such user")
    await first.say("message", content=["x"])
    await first.complains("which is text")
    await first.say("message", content="\ud800")
    await second.hears("message", content="\ud800")


def test_the_page_and_who_may_open_the_chat() -> None:
    async def ask(addr: str) -> None:
        reply = await http.get(f"http://{addr}/")
        assert "script-src 'sha256-" in reply.headers["content-security-policy"]
        assert "'unsafe-inline'" not in reply.headers["content-security-policy"].split("style")[0]
        for origin, status in ((f"http://{addr}", 101), ("http://evil.example", 403)):
            try:
                async with websocket.connect(f"ws://{addr}/chat", origin=origin):
                    assert status == 101
            except websocket.HandshakeFailed as error:
                assert error.status == status  # noqa: PT017
        async with client(addr) as big:
            await big.say("message", content="x" * 10_240)
            with pytest.raises(websocket.WebSocketClosed) as told:
                while True:
                    await big.ws.recv(timeout=DEADLINE)
            assert told.value.code == 1009

    with serving("server.py") as (_, addr):
        asyncio.run(ask(addr))


def test_a_full_server_says_so(tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2] / 'examples/chat')!r})\n"
        "import server\nserver.MAX_CLIENTS = 1\n"
        "server.task.fork(server.main, server.Chat, '127.0.0.1:0')\n"
    )

    async def talk(addr: str) -> None:
        async with client(addr), client(addr, greeted=False) as second:
            with pytest.raises(websocket.WebSocketClosed, match="Server is full") as told:
                await second.hear()
            assert told.value.code == 1013

    with serving(str(tmp_path / "full.py")) as (_, addr):
        asyncio.run(talk(addr))


def test_a_broker_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, "-m", "silly", str(CHAT / "server.py"), "127.0.0.1:0"]
    with held_port() as port:
        done = subprocess.run(
            [*command, f"redis://127.0.0.1:{port}"],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith(f"No bus: redis://127.0.0.1:{port}: ")
        assert done.stderr.count("\n") == 1


async def _chat(*addrs: str, count: int) -> None:
    """Check that *count* clients of these servers are in one chat."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for number in range(count):
            made = await stack.enter_async_context(client(addrs[number % len(addrs)]))
            for each in clients:
                await each.waits_for("join", user_id=made.id)
            clients.append(made)
        assert len({each.id for each in clients}) == count
        for each in clients:
            await each.say("get_users")
            await _lists(each, count)
        await clients[0].say("message", content="hello")
        for each in clients[1:]:
            await each.waits_for("message", from_id=clients[0].id, content="hello")
        await clients[-1].say("private_message", to_id=clients[0].id, content="psst")
        await clients[0].waits_for("private_message", from_id=clients[-1].id, content="psst")
        await clients[1].say("set_name", name="Alice")
        await clients[0].waits_for("user_renamed", user_id=clients[1].id, new_name="Alice")
        last = clients[-1]
        await last.ws.close()
        await clients[0].waits_for("leave", user_id=last.id)


async def _lists(each: Client, count: int) -> None:
    while len((await each.waits_for("users"))["users"]) != count:
        await each.say("get_users")


def test_four_workers_over_redis(tmp_path: Path) -> None:
    with (
        held_port() as port,
        running("redis", tmp_path) as broker,
        serving("server.py", f"127.0.0.1:{port}", broker.url, workers=4) as (_, addr),
    ):
        asyncio.run(_chat(addr, count=6))


def test_two_processes_over_nats_which_is_killed(tmp_path: Path) -> None:
    with (
        running("nats", tmp_path) as broker,
        serving("server.py", "127.0.0.1:0", broker.url) as (_, here),
        serving("server.py", "127.0.0.1:0", broker.url) as (_, there),
    ):
        asyncio.run(_chat(here, there, count=4))

        async def outage() -> None:
            async with client(here) as first, client(there) as second:
                await first.waits_for("join", user_id=second.id)
                broker.kill()
                await first.say("message", content="1")
                await first.waits_for("error")
                broker.start()
                # The page is told that something may be missing, and then all is as before.
                await second.say("message", content="2")
                await first.waits_for("gap")
                await second.waits_for("gap")
                await first.say("message", content="3")
                await second.waits_for("message", content="3")
                await second.say("get_users")
                await _lists(second, 2)

        asyncio.run(outage())
