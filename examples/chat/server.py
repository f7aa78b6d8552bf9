"""A chat for browsers, in one process, on several workers, or on several machines.

    silly examples/chat/server.py
    silly --workers 4 examples/chat/server.py 127.0.0.1:8080 redis://127.0.0.1:6379

Then open http://127.0.0.1:8080/ in two windows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import re
import secrets
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silly import pubsub, task
from silly.net import http, tcp, websocket

MAX_CLIENTS = 1000  # in each process
MAX_MESSAGE = 10 * 1024  # bytes
MAX_NAME = 20  # bytes
PERIOD = 5.0  # seconds between two reports of who is here; three are missed by one that is gone

PAGE = Path(__file__).with_name("page.html").read_text()
SCRIPT = base64.b64encode(hashlib.sha256(re.split("</?script>", PAGE)[1].encode()).digest())
POLICY = (
    f"default-src 'none'; script-src 'sha256-{SCRIPT.decode()}'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src https:; base-uri 'none'; form-action 'none'"
)

Message = dict[str, Any]
SYSTEM: Message = {"from_id": 0, "from_name": "System"}


@dataclass
class User:
    """Somebody who is online, in this process or in another."""

    id: int
    name: str
    connected_at: int
    room: str = "general"
    node: int = 0

    def public(self) -> Message:
        """What others are told."""
        return {"id": self.id, "name": self.name, "connected_at": self.connected_at}


class Complaint(Exception):
    """What a client did wrong, in words for its user."""


class Chat:
    """Everybody who is online, and the messages between them.

    A message of a client to others goes over the bus, also to those in this process. So all
    of them get the same messages, and those of one client in its order.
    """

    features: tuple[str, ...] = ()
    """What the page is to show, beside the core: of the exercises."""

    def __init__(self, bus: pubsub.Bus) -> None:
        self.bus = bus
        # Ids count up from 1; those of several processes must differ.
        self.node = 0 if bus.address == "memory:" else secrets.randbelow(2**30) + 1
        self.ids = itertools.count(1)
        self.users: dict[int, User] = {}  # everywhere
        self.sockets: dict[int, websocket.WebSocket] = {}  # of those in this process
        self.reports: dict[int, float] = {}  # when each other process told who is there
        self.started = time.monotonic()

    # ------------------------------------------------------------------ one client

    async def serve(self, ws: websocket.WebSocket) -> None:
        """Serve one client until it leaves."""
        if len(self.sockets) >= MAX_CLIENTS:
            await ws.close(1013, "Server is full")
            return
        if not await self.admit(ws):
            return
        number = next(self.ids)
        user = User(self.node * 1_000_000 + number, f"User{number}", _now(), node=self.node)
        self.users[user.id] = user
        self.sockets[user.id] = ws
        try:
            await self.greet(user)
            async for text in ws:
                try:
                    await self.handle(user, text)
                except Complaint as complaint:
                    self.send(user, "error", message=str(complaint))
                except pubsub.PublishError as error:
                    doubt = "perhaps " if error.is_uncertain else ""
                    self.send(user, "error", message=f"That was {doubt}not delivered: try again")
        finally:
            self.sockets.pop(user.id, None)
            self.users.pop(user.id, None)
            with contextlib.suppress(pubsub.PublishError, OSError):
                await self.leave(user)

    async def admit(self, ws: websocket.WebSocket) -> bool:
        """Return whether the client may come in; if not, it is told why."""
        return True

    async def greet(self, user: User) -> None:
        """Tell *user* who is here, and the others that *user* came."""
        text = f"Welcome to the chat, {user.name}!"
        about: Message = {"user_id": user.id, "user_name": user.name}
        here = {"server_stats": self.stats(), "room": user.room, "features": self.features}
        self.send(user, "welcome", **about, message=text, **here)
        self.send(user, "users", users=self.listed())
        with contextlib.suppress(pubsub.PublishError):  # the next report tells of it
            await self.tell(user, "join", **SYSTEM, **about, users_online=len(self.users))

    async def leave(self, user: User) -> None:
        """Tell the others that *user* has left."""
        about = {"user_id": user.id, "user_name": user.name, "users_online": len(self.users)}
        await self.tell(user, "leave", gone=user.id, **SYSTEM, **about)

    async def handle(self, user: User, text: str | bytes) -> None:
        """Do what a message of *user* asks for."""
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            raise Complaint("That is not JSON") from None
        if not isinstance(request, dict) or not isinstance(kind := request.get("type"), str):
            raise Complaint("A message has a type")
        method = getattr(self, f"on_{kind}", None) if kind.isidentifier() else None
        if method is None:
            raise Complaint(f"Unknown type of message: {kind[:40]}")
        await method(user, request)

    async def on_set_name(self, user: User, request: Message) -> None:
        """Rename *user*."""
        name = request.get("name")
        if not isinstance(name, str) or not name.isprintable():
            raise Complaint("A name is text on one line")
        name = name.strip()
        if not 1 <= len(name.encode()) <= MAX_NAME:
            raise Complaint(f"A name has 1 to {MAX_NAME} bytes")
        old, user.name = user.name, name
        self.send(user, "name_changed", old_name=old, new_name=name)
        await self.tell(user, "user_renamed", user_id=user.id, old_name=old, new_name=name)

    async def on_message(self, user: User, request: Message) -> None:
        """Pass a message on to all others in the room."""
        if content := self.content(user, request):
            await self.tell(user, "message", from_id=user.id, from_name=user.name, content=content)

    async def on_private_message(self, user: User, request: Message) -> None:
        """Pass a message on to one user."""
        other = self.other(request.get("to_id"))
        if content := self.content(user, request):
            sender = {"from_id": user.id, "from_name": user.name}
            await self.direct(other.id, "private_message", **sender, content=content)
            about = {"to_id": other.id, "to_name": other.name, "content": content}
            self.send(user, "private_message_sent", **about)

    async def on_get_users(self, user: User, request: Message) -> None:
        """List who is online."""
        self.send(user, "users", users=self.listed())

    async def on_get_stats(self, user: User, request: Message) -> None:
        """Tell the figures of the server."""
        self.send(user, "stats", **self.stats())

    def content(self, user: User, request: Message) -> str:
        """Return the text of a message; empty if there is nothing to pass on."""
        content = request.get("content")
        if not isinstance(content, str):
            raise Complaint("A message has content, which is text")
        return content if content.strip() else ""

    def other(self, number: object) -> User:
        """Return the user with this id."""
        if not isinstance(number, int) or number not in self.users:
            raise Complaint("There is no such user")
        return self.users[number]

    def listed(self) -> list[Message]:
        """Return everybody who is online."""
        return [each.public() for each in self.users.values()]

    def stats(self) -> Message:
        """Return the figures of the server."""
        uptime = int(time.monotonic() - self.started)
        return {"users_online": len(self.users), "uptime_seconds": uptime, "server_time": _now()}

    # --------------------------------------------------------------------- sending

    def send(self, user: User, kind: str, **fields: Any) -> None:
        """Send a message to *user*, who is in this process, without waiting."""
        if (ws := self.sockets.get(user.id)) is not None:
            websocket.broadcast([ws], encoded(kind, fields), slow="close")

    async def tell(self, user: User, kind: str, gone: int | None = None, **fields: Any) -> None:
        """Send a message to everybody in the room of *user*, but not to *user*."""
        event = {"text": encoded(kind, fields), "user": asdict(user), "gone": gone}
        await self.publish(f"chat.room.{user.room}", event)

    async def direct(self, number: int, kind: str, **fields: Any) -> None:
        """Send a message to the user with this id, wherever that is."""
        await self.publish(f"chat.user.{number}", {"text": encoded(kind, fields)})

    async def publish(self, subject: str, event: Message) -> None:
        """Publish an event, which all processes `apply`."""
        await self.bus.publish(subject, json.dumps(event).encode())

    # --------------------------------------------------------------- all processes

    async def follow(self, ready: asyncio.Event) -> None:
        """Apply what this process and the others publish, until the bus is closed."""
        async with self.bus.subscribe("chat.>") as events:
            ready.set()
            await self.ask()
            async for event in events:
                if event.gap:  # somebody may have come or gone
                    self.deliver(self.sockets, encoded("gap", SYSTEM))
                    await self.ask()
                await self.apply(event.subject.split(".")[1:], json.loads(event.data))

    async def apply(self, subject: list[str], event: Message) -> None:
        """Apply an event."""
        match subject:
            case ["room", room]:
                sender = User(**event["user"])
                if event["gone"] is not None:
                    self.users.pop(event["gone"], None)
                elif sender.node != self.node:
                    self.users[sender.id] = sender
                members = [each for each in self.sockets if self.users[each].room == room]
                self.deliver(set(members) - {sender.id}, event["text"])
            case ["user", number]:
                self.deliver([int(number)], event["text"])
            case ["ask"]:
                await self.report()
            case ["here"]:
                self.compare(event["node"], [User(**each) for each in event["users"]])

    def deliver(self, numbers: Iterable[int], text: str) -> None:
        """Send *text* to those of these users who are in this process: encoded once."""
        found = [self.sockets[each] for each in numbers if each in self.sockets]
        websocket.broadcast(found, text, slow="close")

    async def ask(self) -> None:
        """Ask the other processes who is there."""
        with contextlib.suppress(pubsub.PublishError):
            await self.publish("chat.ask", {})

    async def report(self) -> None:
        """Tell the other processes who is here."""
        users = [asdict(each) for each in self.users.values() if each.node == self.node]
        with contextlib.suppress(pubsub.PublishError):
            await self.publish("chat.here", {"node": self.node, "users": users})

    async def keep_reporting(self) -> None:
        """Report now and then, and forget processes that do not."""
        while not self.bus.is_closed:
            await self.report()
            await asyncio.sleep(PERIOD)
            late = time.monotonic() - 3 * PERIOD
            for node in [node for node, seen in self.reports.items() if seen < late]:
                self.compare(node, [])
                del self.reports[node]

    def compare(self, node: int, users: list[User]) -> None:
        """Take over who is in another process; tell clients if that is another number."""
        if node == self.node:
            return
        self.reports[node] = time.monotonic()
        known = {each for each, user in self.users.items() if user.node == node}
        for gone in known - {each.id for each in users}:
            del self.users[gone]
        self.users.update({each.id: each for each in users})
        if known != {each.id for each in users}:
            self.deliver(self.sockets, encoded("users", {"users": self.listed()}))


def _now() -> int:
    return int(time.time())


def encoded(kind: str, fields: Message) -> str:
    """Return a message as text."""
    return json.dumps({"type": kind, "timestamp": _now(), **fields})


async def main(kind: type[Chat], addr: str = "127.0.0.1:8080", url: str = "memory:") -> None:
    """Serve the page and the chat at *addr*; *url* is the bus between the processes."""
    try:
        bus = await pubsub.connect(url)
    except OSError as error:
        sys.exit(f"No bus: {error}")
    chat, ready = kind(bus), asyncio.Event()
    task.fork(chat.follow, ready)
    await ready.wait()
    task.fork(chat.keep_reporting)
    routes = http.Router()

    @routes.get("/")
    async def page(request: http.Request) -> http.Response:
        return http.html(PAGE, headers={"content-security-policy": POLICY})

    @routes.get("/chat")
    async def open_chat(request: http.Request) -> None:
        host = request.headers.get("host", "")
        # Our own page, and clients that are no browsers.
        origins = [f"http://{host}", f"https://{host}", None]
        await chat.serve(await websocket.accept(request, origins=origins))

    limits = tcp.Limits(max_message_bytes=MAX_MESSAGE)
    listener = http.listen(addr, routes, limits=limits)
    print(f"Chat on http://{listener.local_addr}/ over {bus.address}", flush=True)


if __name__ == "__main__":
    task.fork(main, Chat, *sys.argv[1:])
