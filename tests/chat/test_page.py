"""The page of the chat in Chromium."""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import AsyncExitStack

import pytest

from tests.browser import Browser, Tab, browser
from tests.chat.harness import client, serving
from tests.ports import held_port

pytestmark = [
    pytest.mark.no_engine,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]

EVIL = "<img src=x onerror=alert(1)>"  # longer than a name may be
NAME = "<img src=x onerror=a>"[:20]


async def is_connected(tab: Tab, count: int) -> None:
    await tab.until(f"document.getElementById('count').textContent === '{count}'")
    await tab.until("document.getElementById('status').textContent === 'connected'")


async def focus(tab: Tab, name: str) -> None:
    """Move the focus to an element, by the keyboard only."""
    for _ in range(20):
        if await tab.evaluate("document.activeElement.id") == name:
            return
        await tab.press("Tab")
    raise AssertionError(f"the keyboard does not reach {name}")


async def fits(tab: Tab, width: int) -> None:
    """Check that the page is not wider than its window, and that its input can be seen."""
    assert await tab.evaluate("document.documentElement.scrollWidth") <= width
    box = "document.getElementById('text').getBoundingClientRect()"
    assert await tab.evaluate(f"{box}.right") <= width
    assert await tab.evaluate(f"{box}.bottom <= innerHeight")
    assert await tab.evaluate(f"{box}.width > 100")
    log = "document.getElementById('log')"
    await tab.until(f"{log}.scrollTop + {log}.clientHeight > {log}.scrollHeight - 60")


def test_what_people_see() -> None:
    async def talk(port: int) -> None:
        url = f"http://127.0.0.1:{port}/"
        async with browser() as chromium:
            with serving("server.py", f"127.0.0.1:{port}") as (program, _):
                first, second = await chromium.open(url), await chromium.open(url)
                for tab in (first, second):
                    await is_connected(tab, 2)
                await _chat(first, second)
                await _nothing_is_markup(first, second, f"127.0.0.1:{port}")
                async with AsyncExitStack() as more:
                    for _ in range(8):
                        await more.enter_async_context(client(f"127.0.0.1:{port}"))
                    await is_connected(first, 10)
                    await _looks(first)
                await is_connected(first, 2)
                program.process.kill()
                program.process.wait()
            await first.until("document.getElementById('status').textContent !== 'connected'")
            with serving("server.py", f"127.0.0.1:{port}"):  # the names are kept
                for tab in (first, second):
                    await is_connected(tab, 2)
                await first.says("Alice (you)")
            await _exercises(chromium)
            with held_port() as other:
                await _restart(chromium, other)

    with held_port() as port:
        asyncio.run(talk(port))


async def _chat(first: Tab, second: Tab) -> None:
    """Chat, by the keyboard only."""
    await focus(first, "name")
    await first.type("Alice")
    await first.press("Enter")
    await second.says("is now Alice")
    await focus(first, "text")
    await first.type("hello <b>you</b>")
    await first.press("Enter")
    await second.says("hello <b>you</b>")
    await first.says("You\nhello <b>you</b>")
    # A private message: choose Alice in the list, then leave that mode with Escape.
    chosen = "document.querySelector(':focus .name')?.innerText"
    while await second.evaluate(chosen) != "Alice":
        await second.press("Tab")
    await second.press("Enter")
    await second.says("to Alice only")
    assert await second.evaluate("document.activeElement.id") == "text"
    await second.type("psst")
    await second.press("Enter")
    await first.until("document.querySelector('.private').innerText.includes('psst')")
    await second.press("Escape")
    assert await second.evaluate("document.getElementById('to').hidden")


async def _nothing_is_markup(first: Tab, second: Tab, addr: str) -> None:
    await first.evaluate("window.alert = () => { window.hacked = true; }")
    async with client(addr) as evil:
        await evil.say("set_name", name=NAME)
        await evil.say("message", content=EVIL)
        await evil.say("private_message", to_id=1, content=EVIL)
        await evil.say("private_message", to_id=2, content=EVIL)
        for tab in (first, second):
            await tab.says(EVIL)
            await tab.until("document.querySelectorAll('.private').length >= 2")
            assert NAME in await tab.text()
            assert await tab.evaluate("document.querySelectorAll('img, b').length") == 0
            await is_connected(tab, 3)  # those who come are in the list at once
        assert not await first.evaluate("window.hacked === true")
        # And if it were markup: the page's policy lets no script run but its own.
        await first.evaluate(
            f"document.getElementById('log').insertAdjacentHTML('beforeend', `{EVIL}`)"
        )
        await first.evaluate("new Promise((done) => setTimeout(done, 50))")
        assert not await first.evaluate("window.hacked === true")
        await first.evaluate("document.querySelector('#log img').remove()")
    await is_connected(first, 2)


async def _looks(tab: Tab) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    await tab.resize(1200, 800)
    await fits(tab, 1200)
    light = await tab.evaluate(back)
    for width in (320, 390):
        await tab.resize(width, 640, dark=True)
        await fits(tab, width)
    assert await tab.evaluate(back) != light
    await tab.resize(1200, 800)


async def _exercises(chromium: Browser) -> None:
    with serving("typing_indicator.py") as (_, addr):
        tab = await chromium.open(f"http://{addr}/")
        await is_connected(tab, 1)
        async with client(addr) as other:
            await other.say("typing")
            await tab.says("User2 is typing")
            await focus(tab, "text")
            await tab.type("h")
            await other.waits_for("typing", user_id=1)
    with serving("receipts.py") as (_, addr):
        first = await chromium.open(f"http://{addr}/")
        await is_connected(first, 1)
        second = await chromium.open(f"http://{addr}/")
        await is_connected(second, 2)
        await focus(first, "text")
        await first.type("hello")
        await first.press("Enter")
        await first.says("You, read by User2")
    with serving("admin.py", env={"CHAT_ADMIN": "toor"}) as (_, addr):
        boss = await chromium.open(f"http://{addr}/")
        await is_connected(boss, 1)
        loud = await chromium.open(f"http://{addr}/")
        await is_connected(boss, 2)
        await focus(boss, "text")
        await boss.type("/admin toor")
        await boss.press("Enter")
        kick = "document.querySelector('[aria-label=\"kick User2\"]')"
        await boss.until(f"!!{kick}")
        await boss.evaluate(f"{kick}.click()")
        await loud.says("An admin sent you away")
        await is_connected(boss, 1)
    with serving("several_rooms.py") as (_, addr):
        tab = await chromium.open(f"http://{addr}/")
        await is_connected(tab, 1)
        async with client(addr) as other:
            await focus(tab, "rooms")
            await tab.press("ArrowDown")
            await other.waits_for("room_changed", user_id=1, room="random")


async def _restart(chromium: Browser, port: int) -> None:
    """No connection is lost (1006), and pages are back."""
    with serving("server.py", f"127.0.0.1:{port}", workers=1) as (program, addr):
        tab = await chromium.open(f"http://{addr}/")
        await is_connected(tab, 1)
        await tab.evaluate("ws.addEventListener('close', (e) => { window.code = e.code; })")
        program.send(signal.SIGHUP)
        assert await tab.until("window.code") == 1012
        await is_connected(tab, 1)
