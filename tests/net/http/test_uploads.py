"""Forms at a server: bounded, and gone with their request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from silly.net import http
from silly.net.http import forms
from silly.net.limits import Limits
from tests.conftest import open_descriptors
from tests.net.http.client import ask, listen

TYPE = [("content-type", "multipart/form-data; boundary=BOUND")]


def form_of(content: bytes) -> bytes:
    head = b'--BOUND\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    return head + content + b"\r\n--BOUND--\r\n"


async def test_an_upload_is_saved_and_its_temporary_file_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "IN_MEMORY", 1000)
    kept: list[http.Upload] = []

    async def handler(request: http.Request) -> Any:
        form = await request.form()
        assert await request.form() is form
        kept.append(form.files["f"])
        await form.files["f"].save(tmp_path / "saved")
        if request.path == "/crash":
            raise ZeroDivisionError
        return f"{form.files['f'].size}"

    listener = listen(handler)
    content = bytes(range(256)) * 2000
    before = open_descriptors()
    for path, status in (("/", 200), ("/crash", 500)):
        reply = await ask(listener, "POST", path, TYPE, form_of(content))
        assert reply.status == status
        assert (tmp_path / "saved").read_bytes() == content
        with pytest.raises(ValueError, match="the request has ended"):
            await kept[-1].read()
        async with asyncio.timeout(60):
            while any(name.endswith("(deleted)") for name in open_descriptors() - before):
                await asyncio.sleep(0)  # the thread that has saved it drops it soon
    await listener.close()


async def test_the_body_of_a_form_is_bounded() -> None:
    async def handler(request: http.Request) -> Any:
        return str(len(await request.form()))

    listener = listen(handler, limits=Limits(max_body_bytes=2000))
    assert (await ask(listener, "POST", "/", TYPE, form_of(b"x" * 3000))).status == 413
    assert (await ask(listener, "POST", "/", TYPE, form_of(b"x" * 1000))).status == 200
    assert (await ask(listener, "POST", "/", TYPE, b"nonsense")).status == 400
    assert (await ask(listener, "POST", "/", (), b"nonsense")).status == 415
    assert (await ask(listener, "GET", "/")).status == 415
    await listener.close()
