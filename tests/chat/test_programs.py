"""The steps of the tutorial, and its exercises."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from silly.net import websocket
from tests.chat.harness import CHAT, DEADLINE, Client, client, serving
from tests.test_examples import Running

pytestmark = pytest.mark.no_engine


@contextmanager
def step(name: str, port: int, directory: Path) -> Iterator[str]:
    """Run a copy of a step on another port than 8080; yield its URL."""
    text = (CHAT / name).read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    (directory / name).write_text(text + '\nprint("ready", flush=True)\n')
    program = Running(str(directory / name))
    try:
        assert (line := program.line()) == "ready\n", line + program.rest()
        yield f"ws://127.0.0.1:{port}/chat"
        assert "Traceback" not in program.stop()
    finally:
        program.end()


async def hears(ws: websocket.WebSocket, text: str) -> None:
    assert await ws.recv(timeout=DEADLINE) == text


def test_step_1_echo(port: int, tmp_path: Path) -> None:
    async def talk(url: str) -> None:
        async with websocket.connect(url) as ws:
            await ws.send("hello")
            await hears(ws, "Echo: hello")

    with step("chat_echo.py", port, tmp_path) as url:
        asyncio.run(talk(url))


def test_step_2_registry(port: int, tmp_path: Path) -> None:
    async def talk(url: str) -> None:
        async with websocket.connect(url) as first:
            await hears(first, "Welcome, User1! Users online: 1")
            async with websocket.connect(url) as second:
                await hears(second, "Welcome, User2! Users online: 2")
            await first.send("hello")
            await hears(first, "You said: hello")
        async with websocket.connect(url) as third:  # the count is right after somebody left
            found = re.fullmatch(r"Welcome, User3! Users online: ([12])", str(await third.recv()))
            assert found

    with step("chat_registry.py", port, tmp_path) as url:
        asyncio.run(talk(url))


def test_step_3_broadcast(port: int, tmp_path: Path) -> None:
    async def talk(url: str) -> None:
        async with websocket.connect(url) as first:
            await hears(first, "Welcome, User1! Users online: 1")
            async with websocket.connect(url) as second:
                await hears(first, "User2 joined the chat")
                await hears(second, "Welcome, User2! Users online: 2")
                await second.send("hello")
                await hears(first, "[User2] hello")
                await hears(second, "Sent to 1 others")
            await hears(first, "User2 left the chat")

    with step("chat_broadcast.py", port, tmp_path) as url:
        asyncio.run(talk(url))


async def _protocol(first: Client, second: Client) -> None:
    await first.hears("welcome", user_id=1, user_name="User1")
    assert (await first.hears("users"))["users"] == [{"id": 1, "name": "User1"}]
    await first.hears("join", user_id=2, user_name="User2", users_online=2)
    await second.hears("welcome", user_id=2)
    await second.hears("users")
    await first.say("set_name", name="Alice")
    await first.hears("name_changed", old_name="User1", new_name="Alice")
    await second.hears("user_update", user_id=1, old_name="User1", new_name="Alice")
    await second.say("message", content="hello")
    await first.hears("message", from_id=2, from_name="User2", content="hello")
    await second.say("get_users")
    assert (await second.hears("users"))["users"][0] == {"id": 1, "name": "Alice"}
    for wrong in ("{", "[1]", '{"type": "set_name", "name": ""}', '{"type": [1]}', "[" * 5000):
        await second.ws.send(wrong)
        await second.hears("error")


@pytest.mark.parametrize("name", ["chat_protocol.py", "chat_private.py"])
def test_steps_4_and_5_protocol(name: str, port: int, tmp_path: Path) -> None:
    async def talk(addr: str) -> None:
        async with client(addr, greeted=False) as first:
            async with client(addr, greeted=False) as second:
                await _protocol(first, second)
                await second.say("private_message", to_id=1, content="psst")
                if name == "chat_protocol.py":
                    await second.hears("error", message="Not understood: private_message")
                else:
                    await second.hears("private_message_sent", to_name="Alice", content="psst")
                    await first.hears("private_message", from_id=2, content="psst")
                    await second.say("private_message", to_id=9, content="psst")
                    await second.complains("There is no such user")
            await first.hears("leave", user_id=2, user_name="User2", users_online=1)

    with step(name, port, tmp_path):
        asyncio.run(talk(f"127.0.0.1:{port}"))


# ----------------------------------------------------------------------- the exercises


def run(name: str, talk: Any, **env: str) -> None:
    with serving(name, env=env) as (_, addr):
        asyncio.run(talk(addr))


def test_history() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as first, client(addr) as witness:
            assert (await first.waits_for("history"))["messages"] == []
            for number in range(105):
                await first.say("message", content=f"{number}")
            await witness.waits_for("message", content="104")
            async with client(addr) as late:
                found = (await late.waits_for("history"))["messages"]
                assert [each["content"] for each in found] == [str(n) for n in range(5, 105)]
                assert found[0]["from_name"] == "User1"

    run("history.py", talk)


def test_rooms() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as first, client(addr) as second:
            await first.waits_for("rooms", rooms=["general", "random", "gaming"], room="general")
            await second.waits_for("rooms")
            await second.say("join_room", room="attic")
            await second.complains("The rooms are general, random, gaming")
            await second.say("join_room", room="random")
            await second.waits_for("rooms", room="random")
            await first.waits_for("room_changed", user_id=second.id, room="random")
            await second.say("message", content="not for general")
            await first.say("message", content="not for random")
            await second.say("join_room", room="general")
            await first.waits_for("room_changed", room="general")
            await second.say("message", content="hello")
            assert (await first.hear())["content"] == "hello"
            assert (await second.hear())["type"] == "rooms"

    run("several_rooms.py", talk)


def test_emoji_and_images() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as first, client(addr) as second:
            text = ":tada: :nothing: https://example.com/a.png http://example.com/b.png data:x.png"
            await second.say("message", content=text)
            found = await first.waits_for("message")
            assert found["content"] == text.replace(":tada:", "🎉")
            assert found["images"] == ["https://example.com/a.png"]

    run("emoji.py", talk)


def test_passwords() -> None:
    async def talk(addr: str) -> None:
        async with client(addr, greeted=False) as good:
            await good.hears("auth_required")
            await good.say("auth", password="open sesame")
            await good.hears("welcome")
            await good.hears("users")
            for password in ("sesame", 5, None):
                async with client(addr, greeted=False) as bad:
                    await bad.hears("auth_required")
                    await bad.say("auth", password=password)
                    with pytest.raises(websocket.WebSocketClosed, match="Wrong password") as told:
                        await bad.hear()
                    assert told.value.code == 4001
            await good.say("get_users")
            assert len((await good.hears("users"))["users"]) == 1

    run("auth.py", talk, CHAT_PASSWORD="open sesame")


def test_typing() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as first, client(addr) as second:
            for _ in range(5):
                await second.say("typing")
            await second.say("message", content="done")
            await first.waits_for("typing", user_id=second.id, user_name="User2")
            assert (await first.hear())["type"] == "message"

    run("typing_indicator.py", talk)


def test_receipts() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as first, client(addr) as second:
            await second.say("message", content="hello")
            number = (await second.waits_for("own_message", content="hello"))["id"]
            await first.waits_for("message", id=number, content="hello")
            await first.say("read", id=number, to_id=second.id)
            await second.hears("read", id=number, user_id=first.id, user_name="User1")
            await first.say("read", id="x", to_id=second.id)
            await first.complains("has a number")

    run("receipts.py", talk)


def test_admins() -> None:
    async def talk(addr: str) -> None:
        async with client(addr) as boss, client(addr) as loud:
            await boss.hears("join")
            await boss.say("kick", user_id=loud.id)
            await boss.complains("Only admins may do that")
            for wrong in ("", "root", None):
                await boss.say("admin", password=wrong)
                await boss.complains("not the password")
            await boss.say("admin", password="toor")
            await boss.hears("admin", user_id=boss.id)
            await boss.say("mute", user_id=loud.id)
            await boss.say("private_message", to_id=loud.id, content="quiet")
            await loud.waits_for("private_message", content="quiet")
            await loud.say("message", content="NO")
            await loud.complains("An admin has muted you")
            await boss.say("kick", user_id=loud.id)
            with pytest.raises(websocket.WebSocketClosed, match="An admin sent you away") as told:
                await loud.hear()
            assert told.value.code == 4003
            await boss.waits_for("leave", user_id=loud.id)

    run("admin.py", talk, CHAT_ADMIN="toor")
