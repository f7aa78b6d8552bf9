r"""HTTP/1.1: a server that is safe by default (extra ``http``: httptools).

::

    from silly.net import http

    async def hello(request):
        return http.Response("Hello, World!\n")

    http.listen("127.0.0.1:8080", hello)

::

    async with http.Client() as client:
        reply = await client.get("https://example.com/")

A handler takes a `Request` and returns a `Response`. `listen` takes everything that
`silly.net.tcp.listen` takes, ``tls=`` and ``limits=`` included.
"""

from __future__ import annotations

from silly.net.http import client as _client
from silly.net.http.client import Client
from silly.net.http.errors import HTTPError, ReplyError
from silly.net.http.fields import Headers, Query
from silly.net.http.files import file, files
from silly.net.http.forms import Form, Upload
from silly.net.http.reply import HTTPStatusError, Reply
from silly.net.http.request import Request
from silly.net.http.response import Response, event, events, html, json, redirect
from silly.net.http.router import Middleware, Router
from silly.net.http.server import Handler, Service, listen, service_of

# Now that the module `silly.net.http.request` was imported, which has the same name.
get, post, request = _client.get, _client.post, _client.request

__all__ = [
    "Client",
    "Form",
    "HTTPError",
    "HTTPStatusError",
    "Handler",
    "Headers",
    "Middleware",
    "Query",
    "Reply",
    "ReplyError",
    "Request",
    "Response",
    "Router",
    "Service",
    "Upload",
    "event",
    "events",
    "file",
    "files",
    "get",
    "html",
    "json",
    "listen",
    "post",
    "redirect",
    "request",
    "service_of",
]
