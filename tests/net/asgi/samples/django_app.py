"""Django in one file: views of both kinds, uploads, streams, sessions, files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path


def guard(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path == "/guarded":
            raise RuntimeError("the middleware failed")
        response = get_response(request)
        response["X-Guard"] = "passed"
        return response

    return middleware


if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DEFAULT_CHARSET="utf-8",
        DATA_UPLOAD_MAX_MEMORY_SIZE=10 * 2**20,
        LOGGING_CONFIG=None,
        MIDDLEWARE=[
            f"{__name__}.guard",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of the tests",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        USE_TZ=True,
    )
    django.setup()


def page(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse(
        {
            "path": request.path,
            "name": name,
            "query": request.GET.dict(),
            "secure": request.is_secure(),
            "host": request.get_host(),
            "address": request.META["REMOTE_ADDR"],
        }
    )


async def later(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse("asynchronous")


def count(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    return JsonResponse({"name": file.name, "size": file.size, "text": request.POST["text"]})


def body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


async def numbers(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.GET["count"])):
            yield f"{number}\n"

    return StreamingHttpResponse(lines())


async def endless(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        while True:
            yield "x" * 65536

    return StreamingHttpResponse(lines())


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(Path(__file__).open("rb"))


def crash(request: HttpRequest) -> HttpResponse:
    raise ValueError("a defect of the sample")


urlpatterns = [
    path("page/<str:name>", page),
    path("later", later),
    path("count", count),
    path("upload", upload),
    path("body", body),
    path("numbers", numbers),
    path("endless", endless),
    path("file", file),
    path("crash", crash),
]

application = get_asgi_application()
