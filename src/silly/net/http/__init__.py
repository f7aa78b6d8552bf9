r"""HTTP/1.1: a server that is safe by default (extra ``http``: httptools).

::

    from silly.net import http

    async def hello(request):
        return http.Response("Hello, World!\n")

    http.listen("127.0.0.1:8080", hello)

A handler takes a `Request` and returns a `Response`. `listen` takes everything that
`silly.net.tcp.listen` takes, ``tls=`` and ``limits=`` included.
"""

from __future__ import annotations

from silly.net.http.errors import HTTPError
from silly.net.http.fields import Headers, Query
from silly.net.http.files import file, files
from silly.net.http.forms import Form, Upload
from silly.net.http.request import Request
from silly.net.http.response import Response, event, events, html, json, redirect
from silly.net.http.router import Middleware, Router
from silly.net.http.server import Handler, Service, listen, service_of

__all__ = [
    "Form",
    "HTTPError",
    "Handler",
    "Headers",
    "Middleware",
    "Query",
    "Request",
    "Response",
    "Router",
    "Service",
    "Upload",
    "event",
    "events",
    "file",
    "files",
    "html",
    "json",
    "listen",
    "redirect",
    "service_of",
]
