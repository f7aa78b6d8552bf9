"""Exercise 5: who is typing: ``silly examples/chat/typing_indicator.py``."""

import sys
import time
from typing import Any

from server import Chat, Message, User, main

from silly import task

PERIOD = 1.0  # seconds


class WithTyping(Chat):
    """Tells the others that somebody types, once a second at most."""

    features = ("typing",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told: dict[int, float] = {}

    async def on_typing(self, user: User, request: Message) -> None:
        """Tell the others, unless they were told just now."""
        now = time.monotonic()
        if now - self.told.get(user.id, -PERIOD) >= PERIOD:
            self.told[user.id] = now
            await self.tell(user, "typing", user_id=user.id, user_name=user.name)

    async def leave(self, user: User) -> None:
        """Forget *user*."""
        self.told.pop(user.id, None)
        await super().leave(user)


if __name__ == "__main__":
    task.fork(main, WithTyping, *sys.argv[1:])
