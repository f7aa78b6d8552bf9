"""Pages, and the files of a directory: ``silly examples/http_pages.py``."""

from pathlib import Path
from time import monotonic

import silly
from silly.net import http

HOME = """<!DOCTYPE html>
<title>Home</title>
<link rel="stylesheet" href="/static/style.css">
<h1>Home</h1>
<p><a href="/about">About</a>, <a href="/api/status">status</a></p>
"""
ABOUT = """<!DOCTYPE html>
<title>About</title>
<link rel="stylesheet" href="/static/style.css">
<h1>About</h1>
<p><a href="/">Home</a></p>
"""
NOT_FOUND = "<!DOCTYPE html>\n<title>Not found</title>\n<h1>404: not found</h1>\n"

started = monotonic()


def as_page(request: http.Request, error: http.HTTPError) -> http.Response:
    """Answer errors with a page."""
    page = NOT_FOUND if error.status == 404 else f"<!DOCTYPE html>\n<h1>{error.status}</h1>\n"
    return http.html(page, error.status, error.headers)


routes = http.Router(render=as_page)
routes.mount("/static", http.files(Path(__file__).parent / "static"))


@routes.get("/")
async def home(request: http.Request) -> http.Response:
    """Return the home page."""
    return http.html(HOME)


@routes.get("/about")
async def about(request: http.Request) -> http.Response:
    """Return another page."""
    return http.html(ABOUT)


@routes.get("/api/status")
async def status(request: http.Request) -> http.Response:
    """Return facts as JSON; uptime is in seconds."""
    uptime = round(monotonic() - started)
    return http.json({"server": "silly", "version": silly.__version__, "uptime": uptime})


http.listen("127.0.0.1:8080", routes)
