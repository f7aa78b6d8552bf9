"""Answers every request with one line: ``silly examples/http_hello.py``."""

from silly.net import http


async def hello(request: http.Request) -> http.Response:
    """Return a response of text."""
    return http.Response("Hello, World!\n")


http.listen("127.0.0.1:8080", hello)
