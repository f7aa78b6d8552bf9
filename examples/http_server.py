"""A web site with a JSON API, which tests itself: ``silly examples/http_server.py [ADDR]``."""

import asyncio
import json
import sys
import urllib.request
from datetime import UTC, datetime
from itertools import count
from typing import Any

import silly
from silly import task
from silly.net import http

STYLE = "body { font-family: sans-serif; margin: 2em auto; max-width: 40em; }"
HOME = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Home</title><style>{STYLE}</style></head>
<body>
<h1>HTTP server</h1>
<ul>
<li><a href="/about">About</a></li>
<li><a href="/api/users">GET /api/users</a>: all users</li>
<li><a href="/api/users?name=Alice">GET /api/users?name=Alice</a>: some</li>
<li>POST /api/users: add one</li>
<li><a href="/api/status">GET /api/status</a>: how the server is</li>
</ul>
</body>
</html>
"""
ABOUT = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>About</title><style>{STYLE}</style></head>
<body><h1>About</h1><p>Made with silly. <a href="/">Home</a></p></body>
</html>
"""

ids = count(1)
users: list[dict[str, Any]] = [
    {"id": next(ids), "name": "Alice", "age": 30, "email": "alice@example.com"},
    {"id": next(ids), "name": "Bob", "age": 25, "email": "bob@example.com"},
]


def as_json(request: http.Request, error: http.HTTPError) -> http.Response:
    """Say what was wrong, and with which request."""
    body = {"error": error.text, "path": request.path, "method": request.method}
    return http.json(body, error.status, error.headers)


routes = http.Router(render=as_json)


@routes.use
def logged(handler: http.Handler) -> http.Handler:
    """Print each request."""

    async def handle(request: http.Request) -> http.Response:
        now = datetime.now().astimezone()
        print(f"[{now:%Y-%m-%d %H:%M:%S}] {request.method} {request.target}", flush=True)
        response: http.Response = await handler(request)
        return response

    return handle


@routes.get("/")
async def home(request: http.Request) -> http.Response:
    """Return the home page."""
    return http.html(HOME)


@routes.get("/about")
async def about(request: http.Request) -> http.Response:
    """Return another page."""
    return http.html(ABOUT)


@routes.get("/api/users")
async def list_users(request: http.Request) -> http.Response:
    """Return the users; ``?name=Alice``: those with exactly this name."""
    name = request.query.get("name")
    return http.json([user for user in users if name is None or user["name"] == name])


@routes.post("/api/users")
async def add_user(request: http.Request) -> http.Response:
    """Add a user; what the client sent is checked before anything happens."""
    match await request.json():
        case {"name": str(name), "age": age, **others} if name and type(age) is int:
            email = others.get("email", f"{name.lower()}@example.com")
            user = {"id": next(ids), "name": name, "age": age, "email": str(email)}
            users.append(user)
            return http.json(user, 201)
    raise http.HTTPError(400, "required: name (text) and age (a number)")


@routes.get("/api/status")
async def status(request: http.Request) -> http.Response:
    """Return how the server is."""
    return http.json(
        {
            "server": "silly",
            "version": silly.__version__,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "users_count": len(users),
            "protocol": f"HTTP/{request.version}",
        }
    )


def get(url: str) -> Any:
    """Return the JSON at *url*; blocks, so it is called in a thread."""
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


async def test() -> None:
    """Ask the server as a client would."""
    try:
        answer = await asyncio.to_thread(get, f"http://{listener.local_addr}/api/status")
    except OSError as error:
        print("Self-test failed:", error, flush=True)
    else:
        print("Self-test passed:", answer["server"], answer["version"], flush=True)


listener = http.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080", routes)
print(f"Serving on http://{listener.local_addr}/   (Ctrl-C stops the server)", flush=True)
task.fork(test)
