"""Exercise 6: read receipts: ``silly examples/chat/receipts.py``."""

import itertools
import sys
from typing import Any

from server import Chat, Complaint, Message, User, main

from silly import task


class WithReceipts(Chat):
    """Numbers the messages; clients say which they have shown, and the sender is told."""

    features = ("own_messages",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.numbers = itertools.count(self.node * 1_000_000 + 1)

    async def on_message(self, user: User, request: Message) -> None:
        """Pass a message on, with its number, and tell the sender the number."""
        if content := self.content(user, request):
            number = next(self.numbers)
            sender: Message = {"from_id": user.id, "from_name": user.name}
            await self.tell(user, "message", id=number, **sender, content=content)
            self.send(user, "own_message", id=number, content=content)

    async def on_read(self, user: User, request: Message) -> None:
        """Tell the sender of a message that *user* has read it."""
        sender, number = self.other(request.get("to_id")), request.get("id")
        if not isinstance(number, int):
            raise Complaint("A message has a number")
        await self.direct(sender.id, "read", id=number, user_id=user.id, user_name=user.name)


if __name__ == "__main__":
    task.fork(main, WithReceipts, *sys.argv[1:])
