"""Step 3: passes messages on to all others: ``silly examples/chat/chat_broadcast.py``."""

import itertools
from dataclasses import dataclass

from silly.net import websocket

ids = itertools.count(1)


@dataclass
class User:
    """Somebody who is connected."""

    id: int
    ws: websocket.WebSocket
    name: str


users: dict[int, User] = {}


def broadcast(sender: User, text: str) -> int:
    """Send *text* to everybody but *sender*; return to how many."""
    others = [user.ws for user in users.values() if user is not sender]
    return websocket.broadcast(others, text, slow="close")


async def chat(ws: websocket.WebSocket) -> None:
    """Pass on what a client says, and that it came and left."""
    number = next(ids)
    user = users[number] = User(number, ws, f"User{number}")
    try:
        await ws.send(f"Welcome, {user.name}! Users online: {len(users)}")
        broadcast(user, f"{user.name} joined the chat")
        async for message in ws:
            if isinstance(message, str):
                count = broadcast(user, f"[{user.name}] {message}")
                await ws.send(f"Sent to {count} others")
    finally:
        del users[number]
        broadcast(user, f"{user.name} left the chat")


websocket.listen("127.0.0.1:8080", chat, "/chat")
