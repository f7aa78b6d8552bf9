"""Forms, without a server: at every split of the bytes, within bounds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from silly.net import http
from silly.net.http import forms
from tests.conftest import open_descriptors

pytestmark = pytest.mark.no_engine

TYPE = "multipart/form-data; boundary=BOUND"
FORM = (
    b'--BOUND\r\nContent-Disposition: form-data; name="title"\r\n\r\nJ\xc3\xb6rg\r\n'
    b'--BOUND\r\ncontent-disposition: form-data; name="photo"; filename="../../etc/passwd"\r\n'
    b"Content-Type: image/png\r\n\r\n\r\n--BOUN\x00\xff\r\n\r\n"
    b'--BOUND\r\nContent-Disposition: form-data; name="photo"; filename="b \\"q\\".txt"\r\n\r\n\r\n'
    b'--BOUND\r\nContent-Disposition: form-data; name="unchosen"; filename=""\r\n\r\n\r\n'
    b'--BOUND\r\nContent-Disposition: form-data; name="title"\r\n\r\nlast\r\n'
    b"--BOUND--\r\n"
)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


def read(content_type: str, *data: bytes) -> http.Form:
    return asyncio.run(forms.read_form(content_type, pieces(*data)))


def refusal(content_type: str, *data: bytes) -> tuple[int, str]:
    with pytest.raises(http.HTTPError) as caught:
        read(content_type, *data)
    return caught.value.status, caught.value.text


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    before = open_descriptors()
    asyncio.run(coroutine)
    assert open_descriptors() - before == set()


async def check(form: http.Form) -> None:
    assert form["title"] == "last"
    assert form.get_all("title") == ["Jörg", "last"]
    assert list(form) == ["title"]
    assert list(form.files) == ["photo"]
    first, second = form.files.get_all("photo")
    assert form.files["photo"] is second
    assert (first.filename, second.filename) == ("../../etc/passwd", 'b "q".txt')
    assert (first.content_type, second.content_type) == ("image/png", "application/octet-stream")
    assert first.headers["content-disposition"].startswith("form-data;")
    assert await first.read() == await first.read() == b"\r\n--BOUN\x00\xff\r\n"
    assert (first.size, second.size, await second.read()) == (12, 0, b"")


def test_every_split() -> None:
    async def main() -> None:
        for at in range(len(FORM)):
            await check(await forms.read_form(TYPE, pieces(FORM[:at], FORM[at:])))
        await check(await forms.read_form(TYPE, pieces(*(bytes([byte]) for byte in FORM))))

    run(main())


@pytest.mark.parametrize("in_memory", [0, 10, 1000])
def test_files_on_disk_are_the_same(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "IN_MEMORY", in_memory)

    async def main() -> None:
        form = await forms.read_form(TYPE, pieces(*(bytes([byte]) for byte in FORM)))
        await check(form)
        upload = form.files.get_all("photo")[0]
        form.close()
        with pytest.raises(ValueError, match="the request has ended"):
            await upload.read()

    run(main())


@pytest.mark.parametrize("size", [1000, 3 * 1024 * 1024 + 1])
def test_uploads_are_saved(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    head = b'--BOUND\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    body = head + content + b"\r\n--BOUND--"
    sent = [body[at : at + 65536] for at in range(0, len(body), 65536)]

    async def main() -> None:
        form = await forms.read_form(TYPE, pieces(*sent))
        upload = form.files["f"]
        assert repr(upload) == f"<Upload 'f', {size} bytes>"
        await upload.save(tmp_path / "saved")
        await upload.save(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == content
        received = [piece async for piece in upload]
        assert b"".join(received) == content
        form.close()
        with pytest.raises(ValueError, match="the request has ended"):
            await upload.save(tmp_path / "late")

    run(main())


def test_urlencoded() -> None:
    kind = "Application/x-www-form-urlencoded; charset=utf-8"
    form = read(kind, b"a=1&b=x+y%2", b"0z&a=&c")
    assert form.pairs == [("a", "1"), ("b", "x y z"), ("a", ""), ("c", "")]
    assert len(form.files) == 0
    assert read(kind).pairs == []
    assert refusal(kind, b"a=%ff") == (400, "the form is not UTF-8")
    assert refusal(kind, b"a=\xff") == (400, "the form is not UTF-8")
    assert refusal(kind, b"&".join([b"a"] * 1001)) == (413, "more than 1000 fields")
    assert refusal(kind, *[b"a" * 300_000] * 4)[0] == 413


def part(head: bytes, content: bytes = b"") -> bytes:
    return b"--BOUND\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("", b"", 415),
        ("application/json", b"{}", 415),
        ("multipart/mixed; boundary=x", b"", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=", b"", 400),
        (f"multipart/form-data; boundary={'x' * 71}", b"", 400),
        (TYPE, b"", 400),
        (TYPE, b"nonsense", 400),
        (TYPE, FORM[:-6], 400),
        (TYPE, part(b"Content-Type: text/plain") + b"--BOUND--", 400),
        (TYPE, part(b"Content-Disposition: form-data") + b"--BOUND--", 400),
        (TYPE, part(b'Content-Disposition: attachment; name="a"') + b"--BOUND--", 400),
        (TYPE, part(b"No Name: x") + b"--BOUND--", 400),
        (TYPE, part(NAMED, b"\xff") + b"--BOUND--", 400),
        (TYPE, part(NAMED, b"x" * 1_100_000) + b"--BOUND--", 413),
        (TYPE, part(NAMED) * 1001 + b"--BOUND--", 413),
    ],
)
def test_what_is_refused(
    content_type: str, body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    assert refusal(content_type, *sent)[0] == status
    assert not caplog.records  # a client could make any number of them


@pytest.mark.parametrize("head", [b"X: " + b"x" * 9000, b"x" * 9000, b"a: b\r\n" * 5000])
def test_the_head_of_a_part_is_bounded(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(TYPE, part(head))[0] in {400, 413}
    monkeypatch.setattr(forms, "MAX_PART_HEAD", 100)  # which the parser's own limits do not hide
    assert refusal(TYPE, part(NAMED + b"\r\nX: " + b"x" * 90))[1] == (
        "a part's head has more than 100 bytes"
    )


def test_the_extra_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    with pytest.raises(ImportError, match=r"^forms need python-multipart: .*pip install "):
        read(TYPE, FORM)


def test_an_empty_form_and_what_follows_it() -> None:
    assert read(TYPE, b"--BOUND--").pairs == []
    form = read(TYPE, part(NAMED, b"1") + b"--BOUND--\r\nepilogue", b"--BOUND\r\n")
    assert form.pairs == [("a", "1")]


def test_a_cancelled_form_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "IN_MEMORY", 0)

    async def main() -> None:
        blocked = asyncio.Event()

        async def stalling() -> AsyncIterator[bytes]:
            yield FORM[:300]
            blocked.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(forms.read_form(TYPE, stalling()))
        await blocked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
