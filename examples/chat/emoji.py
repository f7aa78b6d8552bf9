"""Exercise 3: emoji, and links to images: ``silly examples/chat/emoji.py``."""

import re
import sys

from server import Chat, Message, User, main

from silly import task

EMOJI = {":smile:": "😄", ":heart:": "❤️", ":thumbsup:": "👍", ":fire:": "🔥", ":tada:": "🎉"}
NAME = re.compile(r":[a-z]+:")
IMAGE = re.compile(
    r"https://[\w.-]+(?::\d+)?/[^\s<>\"']*\.(?:png|jpe?g|gif|webp)(?=\s|$)", re.IGNORECASE
)


class WithEmoji(Chat):
    """Replaces names of emoji, and says which links are images, for the page to show."""

    def content(self, user: User, request: Message) -> str:
        """Return the text with emoji."""
        text = super().content(user, request)
        return NAME.sub(lambda found: EMOJI.get(found[0], found[0]), text)

    async def on_message(self, user: User, request: Message) -> None:
        """Pass a message on, with the images that it links to."""
        if content := self.content(user, request):
            sender: Message = {"from_id": user.id, "from_name": user.name}
            images = IMAGE.findall(content)[:4]
            await self.tell(user, "message", **sender, content=content, images=images)


if __name__ == "__main__":
    task.fork(main, WithEmoji, *sys.argv[1:])
