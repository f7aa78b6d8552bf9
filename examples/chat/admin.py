"""Exercise 7: admins may kick and mute: ``CHAT_ADMIN=… silly examples/chat/admin.py``."""

import hmac
import os
import sys
import time
from typing import Any

from server import Chat, Complaint, Message, User, main

from silly import task

PASSWORD = os.environ.get("CHAT_ADMIN", "")
MUTED = 60.0  # seconds


class WithAdmins(Chat):
    """Whoever sends the admin's password may send others away, or silence them for a while."""

    features = ("admins",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.admins: set[int] = set()
        self.muted: dict[int, float] = {}  # until when

    async def on_admin(self, user: User, request: Message) -> None:
        """Make *user* an admin."""
        given = str(request.get("password", "")).encode("utf-8", "surrogatepass")
        if not PASSWORD or not hmac.compare_digest(given, PASSWORD.encode()):
            raise Complaint("That is not the password")
        self.admins.add(user.id)
        self.send(user, "admin", user_id=user.id)

    async def on_kick(self, user: User, request: Message) -> None:
        """Send somebody away."""
        await self.publish(f"chat.kick.{self.target(user, request).id}", {})

    async def on_mute(self, user: User, request: Message) -> None:
        """Silence somebody."""
        await self.publish(f"chat.mute.{self.target(user, request).id}", {})

    def target(self, user: User, request: Message) -> User:
        """Return who is meant, if *user* may do this."""
        if user.id not in self.admins:
            raise Complaint("Only admins may do that")
        return self.other(request.get("user_id"))

    async def apply(self, subject: list[str], event: Message) -> None:
        """Do it where that user is connected, which may be another process."""
        await super().apply(subject, event)
        ws = self.sockets.get(int(subject[1])) if subject[0] in {"kick", "mute"} else None
        if ws is None:
            return
        if subject[0] == "kick":
            task.fork(ws.close, 4003, "An admin sent you away")
        else:
            self.muted[int(subject[1])] = time.monotonic() + MUTED

    def content(self, user: User, request: Message) -> str:
        """Return the text of a message, unless *user* is muted."""
        if time.monotonic() < self.muted.get(user.id, 0.0):
            raise Complaint("An admin has muted you")
        return super().content(user, request)

    async def leave(self, user: User) -> None:
        """Forget *user*."""
        self.admins.discard(user.id)
        self.muted.pop(user.id, None)
        await super().leave(user)


if __name__ == "__main__":
    task.fork(main, WithAdmins, *sys.argv[1:])
