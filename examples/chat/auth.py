"""Exercise 4: a password, as the first message: ``CHAT_PASSWORD=… silly examples/chat/auth.py``."""

import asyncio
import hmac
import json
import os
import sys

from server import Chat, encoded, main

from silly import task
from silly.net import websocket

PASSWORD = os.environ.get("CHAT_PASSWORD", "secret")
TIME = 10.0  # seconds to send it; a browser asks its user
ATTEMPT = 0.5  # seconds for which a wrong one is considered


class WithPassword(Chat):
    """Lets in who knows the password; nobody else is seen by the others."""

    async def admit(self, ws: websocket.WebSocket) -> bool:
        """Ask for the password; close with 4001 if it is wrong, or late."""
        await ws.send(encoded("auth_required", {}))
        try:
            request = json.loads(await ws.recv(timeout=TIME))
            given = request["password"] if request["type"] == "auth" else ""
            # It takes the same time however much of the password is right.
            if hmac.compare_digest(given.encode(), PASSWORD.encode()):
                return True
        except TimeoutError:
            await ws.close(4001, "No password")
            return False
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            pass  # anything but a password
        await asyncio.sleep(ATTEMPT)
        await ws.close(4001, "Wrong password")
        return False


if __name__ == "__main__":
    task.fork(main, WithPassword, *sys.argv[1:])
