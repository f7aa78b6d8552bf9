"""Step 2: knows who is connected: ``silly examples/chat/chat_registry.py``."""

import itertools
import logging
from dataclasses import dataclass

from silly.net import websocket

logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s")
logger = logging.getLogger("chat")
ids = itertools.count(1)


@dataclass
class User:
    """Somebody who is connected."""

    id: int
    ws: websocket.WebSocket
    name: str


users: dict[int, User] = {}


async def chat(ws: websocket.WebSocket) -> None:
    """Keep a client in the registry while it is connected."""
    number = next(ids)
    user = users[number] = User(number, ws, f"User{number}")
    logger.info("%s connected, users online: %d", user.name, len(users))
    try:
        await ws.send(f"Welcome, {user.name}! Users online: {len(users)}")
        async for message in ws:
            if isinstance(message, str):
                await ws.send(f"You said: {message}")
    finally:
        del users[number]
        logger.info("%s disconnected, users online: %d", user.name, len(users))


websocket.listen("127.0.0.1:8080", chat, "/chat")
