"""Make the pictures of the chat in tutorial/websocket-chat.md: ``docs/make_pictures.py chat``.

A server is started, and three people talk: two in Chromium, one in a program.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.browser import Tab, browser  # noqa: E402
from tests.chat.harness import client, serving  # noqa: E402

TALK = (
    ("Hello, everybody!", "Hi Alice. Did you see the new release?"),
    ("Not yet. What is in it?", "WebSockets, and a bus between machines."),
)


async def write(tab: Tab, text: str) -> None:
    """Write in a tab."""
    await tab.evaluate("document.getElementById('text').focus()")
    await tab.type(text)
    await tab.press("Enter")


async def make() -> None:
    """Make both pictures."""
    async with browser() as chromium:
        with serving("server.py") as (_, addr):
            tabs = [await chromium.open(f"http://{addr}/") for _ in range(2)]
            for tab, name, other in zip(tabs, ("Alice", "Bob"), ("2", "2"), strict=True):
                await tab.until(f"document.getElementById('count').textContent === '{other}'")
                await tab.evaluate(f"send({{type: 'set_name', name: '{name}'}})")
                await tab.says(f"You are now {name}")
            alice, bob = tabs
            async with client(addr) as carol:
                await carol.say("set_name", name="Carol <b>")
                await alice.says("is now Carol")
                for said, answered in TALK:
                    await write(alice, said)
                    await bob.says(said)
                    await write(bob, answered)
                    await alice.says(answered)
                await carol.say("message", content="My name is <img src=x onerror=alert(1)>.")
                for tab, name in zip(tabs, ("Alice", "Bob"), strict=True):
                    number = await tab.evaluate("me")
                    await carol.say("private_message", to_id=number, content=f"{name}, lunch?")
                for tab in tabs:
                    await tab.says("lunch?")
                await alice.resize(900, 560)
                await bob.resize(360, 640, dark=True)
                await alice.picture(HERE / "tutorial" / "chat.png")
                await bob.picture(HERE / "tutorial" / "chat-phone.png")
