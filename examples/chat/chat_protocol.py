"""Step 4: messages are JSON, and say what they are: ``silly examples/chat/chat_protocol.py``."""

import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

from silly.net import websocket

ids = itertools.count(1)


@dataclass
class User:
    """Somebody who is connected."""

    id: int
    ws: websocket.WebSocket
    name: str


users: dict[int, User] = {}


def encoded(kind: str, **fields: Any) -> str:
    """Return a message as text."""
    return json.dumps({"type": kind, "timestamp": int(time.time()), **fields})


def broadcast(sender: User, kind: str, **fields: Any) -> None:
    """Send a message to everybody but *sender*."""
    others = [user.ws for user in users.values() if user is not sender]
    websocket.broadcast(others, encoded(kind, **fields), slow="close")


def listed() -> list[dict[str, Any]]:
    """Return who is online."""
    return [{"id": user.id, "name": user.name} for user in users.values()]


async def handle(user: User, text: str | bytes) -> None:
    """Do what a message of *user* asks for."""
    try:
        request = json.loads(text)
        match request["type"], request:
            case "set_name", {"name": str(name)} if 1 <= len(name.encode()) <= 20:
                old, user.name = user.name, name
                await user.ws.send(encoded("name_changed", old_name=old, new_name=name))
                broadcast(user, "user_update", user_id=user.id, old_name=old, new_name=name)
            case "message", {"content": str(content)}:
                broadcast(user, "message", from_id=user.id, from_name=user.name, content=content)
            case "get_users", _:
                await user.ws.send(encoded("users", users=listed()))
            case kind, _:
                await user.ws.send(encoded("error", message=f"Not understood: {kind}"))
    except (ValueError, RecursionError, LookupError, TypeError):
        await user.ws.send(encoded("error", message="A message is JSON, and has a type"))


async def chat(ws: websocket.WebSocket) -> None:
    """Serve a client."""
    number = next(ids)
    user = users[number] = User(number, ws, f"User{number}")
    try:
        await ws.send(encoded("welcome", user_id=number, user_name=user.name))
        await ws.send(encoded("users", users=listed()))
        broadcast(user, "join", user_id=number, user_name=user.name, users_online=len(users))
        async for text in ws:
            await handle(user, text)
    finally:
        del users[number]
        broadcast(user, "leave", user_id=number, user_name=user.name, users_online=len(users))


websocket.listen("127.0.0.1:8080", chat, "/chat")
