"""Exercise 1: newcomers get the last 100 messages: ``silly examples/chat/history.py``."""

import json
import sys
from collections import defaultdict, deque
from typing import Any

from server import Chat, Message, User, main

from silly import task


class WithHistory(Chat):
    """Keeps what this process has heard since it began."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.history: defaultdict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=100))

    async def greet(self, user: User) -> None:
        """Send what was said before *user* came."""
        await super().greet(user)
        self.send(user, "history", messages=list(self.history[user.room]))

    async def apply(self, subject: list[str], event: Message) -> None:
        """Keep what is said in a room."""
        await super().apply(subject, event)
        if subject[0] == "room":
            message = json.loads(event["text"])
            if message["type"] == "message":
                self.history[subject[1]].append(message)


if __name__ == "__main__":
    task.fork(main, WithHistory, *sys.argv[1:])
