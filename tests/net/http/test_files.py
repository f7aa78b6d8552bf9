"""Files as responses: whole, in part, or not at all; and never one outside the directory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silly.net import http, tcp
from silly.net.http.disk import DiskFile, FilePieces
from tests.net.http.client import ask, listen

BIG = 3 * 1024 * 1024 + 7


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    root = tmp_path_factory.mktemp("site")
    (root / "page.html").write_text("<h1>page</h1>")
    (root / "big.bin").write_bytes(os.urandom(1024) * (BIG // 1024) + b"the end")
    (root / "empty.txt").write_bytes(b"")
    (root / "a b é.txt").write_text("name")
    (root / ".hidden").write_text("hidden")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_text("well known")
    (root / "docs").mkdir()
    (root / "docs" / "index.html").write_text("index")
    (root / "docs" / ".git").mkdir()
    (root / "docs" / ".git" / "config").write_text("hidden")
    (root / "bare").mkdir()
    (root / "archive.tar.gz").write_bytes(b"gz")
    (root / "inside.txt").symlink_to(root / "page.html")
    (root / "leak.txt").symlink_to(outside / "secret.txt")
    (root / "leaks").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "bare" / "index.html").symlink_to(outside / "secret.txt")
    os.mkfifo(root / "fifo")
    for path in ("page.html", "big.bin"):
        os.utime(root / path, (1_700_000_000, 1_700_000_000))
    return root


def routes_of(site: Path) -> http.Router:
    routes = http.Router()
    routes.mount("/static", http.files(site, headers={"cache-control": "max-age=60"}))

    @routes.get("/one")
    async def one(request: http.Request) -> http.Response:
        return http.file(site / "big.bin", download='Größe "1".bin')

    @routes.get("/missing")
    async def missing(request: http.Request) -> http.Response:
        return http.file(site / "missing")

    @routes.post("/one")
    async def posted(request: http.Request) -> http.Response:
        return http.file(site / "page.html")

    return routes


async def test_a_file_is_sent_whole(site: Path) -> None:
    listener = listen(routes_of(site))
    content = (site / "big.bin").read_bytes()
    reply = await ask(listener, "GET", "/one")
    assert (reply.status, reply.body == content) == (200, True)
    assert reply.headers["content-length"] == str(len(content))
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == (
        "attachment; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22.bin"
    )
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert reply.headers["x-content-type-options"] == "nosniff"
    reply = await ask(listener, "HEAD", "/one")
    assert reply.headers["content-length"] == str(len(content))
    assert (await ask(listener, "GET", "/missing")).status == 404
    assert (await ask(listener, "POST", "/one", [("if-none-match", "*")])).status == 200
    await listener.close()


async def test_parts_and_conditions(site: Path) -> None:
    listener = listen(routes_of(site))
    content = (site / "big.bin").read_bytes()
    tag = (await ask(listener, "HEAD", "/one")).headers["etag"]
    reply = await ask(listener, "GET", "/one", [("range", "bytes=-7")])
    assert (reply.status, reply.body) == (206, b"the end")
    assert reply.headers["content-range"] == f"bytes {BIG - 7}-{BIG - 1}/{BIG}"
    reply = await ask(listener, "GET", "/one", [("range", "bytes=1000-2000000"), ("if-range", tag)])
    assert (reply.status, reply.body == content[1000:2000001]) == (206, True)
    reply = await ask(listener, "GET", "/one", [("range", "bytes=0-1"), ("if-range", '"x"')])
    assert (reply.status, len(reply.body)) == (200, BIG)
    reply = await ask(listener, "HEAD", "/one", [("range", "bytes=0-1")])
    assert (reply.status, reply.headers["content-length"]) == (200, str(BIG))
    reply = await ask(listener, "GET", "/one", [("range", f"bytes={BIG}-")])
    assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{BIG}")
    for method in ("GET", "HEAD"):
        reply = await ask(listener, method, "/one", [("if-none-match", tag)])
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in reply.headers
    assert (await ask(listener, "GET", "/one", [("if-match", '"x"')])).status == 412
    twice = [("If-None-Match", '"x"'), ("if-none-match", tag), ("if-other", "x")]
    assert (await ask(listener, "GET", "/one", twice)).status == 304
    reply = await ask(listener, "GET", "/static/page.html", [("if-none-match", "*")])
    assert (reply.status, reply.headers["cache-control"]) == (304, "max-age=60")
    await listener.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/page.html", b"<h1>page</h1>"),
        ("/inside.txt", b"<h1>page</h1>"),
        ("/a%20b%20%C3%A9.txt", b"name"),
        ("/empty.txt", b""),
        ("/docs/", b"index"),
        ("/docs/index.html?x=1", b"index"),
        ("/.well-known/security.txt", b"well known"),
        ("/archive.tar.gz", b"gz"),
    ],
)
@pytest.mark.no_engine
async def test_what_a_directory_serves(site: Path, path: str, body: bytes) -> None:
    listener = listen(routes_of(site))
    reply = await ask(listener, "GET", f"/static{path}")
    assert (reply.status, reply.body) == (200, body)
    await listener.close()


OUTSIDE = (
    *("/../outside/secret.txt", "/docs/../page.html", "/%2e%2e/secret.txt", "/..%2fsecret.txt"),
    *(
        "/docs%2findex.html",
        "/docs\\index.html".replace("\\", "%5c"),
        "//etc/passwd",
        "/./page.html",
    ),
    *("/page.html%00", "/page.html%00.txt", "/.hidden", "/docs/.git/config", "/leak.txt"),
    *("/leaks/secret.txt", "/loop", "/fifo", "/bare", "/bare/", "/", "", "/page.html/", "/nothing"),
    *("/docs//index.html", f"/{'x' * 300}", "/page.html/x", "/%2fetc%2fpasswd", "/docs//"),
)


@pytest.mark.no_engine
async def test_what_a_directory_does_not_serve(site: Path) -> None:
    listener = listen(routes_of(site))
    for path in OUTSIDE:
        assert ((await ask(listener, "GET", f"/static{path}")).status, path) == (404, path)
    reply = await ask(listener, "GET", "/static/docs?x=1")
    assert (reply.status, reply.headers["location"]) == (308, "/static/docs/?x=1")
    for method in ("POST", "DELETE"):
        reply = await ask(listener, method, "/static/page.html")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (await ask(listener, "OPTIONS", "/static/page.html")).status == 204
    await listener.close()


@pytest.mark.no_engine
async def test_options_of_a_directory(site: Path, tmp_path: Path) -> None:
    routes = http.Router()
    routes.mount("/", http.files(site, dotfiles=True, index="page.html"))
    listener = listen(routes)
    assert (await ask(listener, "GET", "/")).body == b"<h1>page</h1>"
    assert (await ask(listener, "GET", "/.hidden")).body == b"hidden"
    assert (await ask(listener, "GET", "/docs/.git/config")).body == b"hidden"
    await listener.close()
    with pytest.raises(FileNotFoundError):
        http.files(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError):
        http.files(site / "page.html")
    with pytest.raises(ValueError, match="is set by the server"):
        http.files(site, headers={"date": "x"})


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.svg", "image/svg+xml"),
        ("a.json", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a.woff2", "font/woff2"),
        ("a.unknown", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_types(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("")
    assert http.file(tmp_path / name).content_type == kind
    assert http.file(tmp_path / name, content_type="a/b").content_type == "a/b"


@pytest.mark.no_engine
def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    for path in (tmp_path / "missing", tmp_path, "\0"):
        with pytest.raises(http.HTTPError, match="404"):
            http.file(path)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(http.HTTPError, match="403"):
        http.file(tmp_path / "x")

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        http.file(tmp_path / "x")


@pytest.mark.no_engine
async def test_the_pieces_of_a_file_can_be_taken(site: Path) -> None:
    """As middleware does that changes bodies."""
    (site / "large").write_bytes(bytes(range(256)) * 1000)
    response = http.file(site / "large")
    pieces: Any = response.body
    assert b"".join([piece async for piece in pieces]) == bytes(range(256)) * 1000
    assert [piece async for piece in pieces] == []
    with pytest.raises(ValueError, match="can be sent only once"):
        await pieces.send_to(None)


def test_what_is_known_of_a_path_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text("first")
    first = dict(http.file(path).headers)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    older = dict(http.file(path).headers)
    assert older["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    path.write_text("another")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    longer = dict(http.file(path).headers)
    assert len({first["etag"], older["etag"], longer["etag"]}) == 3
    given = http.file(path, content_type="text/x-page", headers={"cache-control": "no-store"})
    assert given.content_type == "text/x-page"
    assert dict(given.headers) == {**longer, "cache-control": "no-store"}
    assert dict(http.file(path).headers) == longer
    assert http.file(path).content_type == "text/plain; charset=utf-8"
    with pytest.raises(ValueError, match="content_type"):
        http.file(path, content_type="text/plain\r\nx: y")
    with pytest.raises(ValueError, match="set by the server"):
        http.file(path, headers={"content-length": "1"})


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list them")
def test_what_is_no_file_leaves_no_descriptor(site: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("docs", "fifo", "missing", "page.html/page", "page.html\0"):
        with pytest.raises(http.HTTPError):
            http.file(f"{site}/{name}")
    del http.file(site / "page.html").body
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_opens_files_is_audited(site: Path) -> None:
    """PEP 578: as of all files that Python opens."""
    program = (
        "import sys; from silly.net import http\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, about: name == 'open' and seen.append(about[0]))\n"
        "http.file(sys.argv[1])\n"
        "assert sys.argv[1] in seen, seen\n"
    )
    command = [sys.executable, "-c", program, str(site / "page.html")]
    subprocess.run(command, check=True, timeout=30)


async def test_a_file_that_becomes_shorter_cuts_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"x" * 1_000_000)

    async def handler(request: http.Request) -> http.Response:
        response = http.file(path)
        os.truncate(path, 500_000)
        return response

    listener = listen(handler)
    async with tcp.connect(listener.local_addr) as conn:
        conn.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"content-length: 1000000\r\n" in await conn.read(b"\r\n\r\n")
        with pytest.raises((EOFError, OSError)):
            await conn.read(1_000_000, timeout=60)
    await listener.close()


@pytest.mark.no_engine
async def test_a_file_that_becomes_shorter_within_a_system_call(site: Path) -> None:
    class Shortened(FilePieces):
        def send(self, conn: object) -> int:
            return 0

    (site / "short").write_bytes(b"x" * 100)
    with pytest.raises(EOFError, match="the file has become shorter: 100 bytes are missing"):
        await Shortened(DiskFile(os.open(site / "short", os.O_RDONLY)), 0, 100).send_to(None)


async def test_a_client_that_reads_slowly_and_leaves_holds_little_memory(tmp_path: Path) -> None:
    conns: list[tcp.Conn] = []
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1024**3)  # without a byte on the disk

    async def handler(request: http.Request) -> http.Response:
        conns.append(request.conn)
        return http.file(tmp_path / "huge")

    listener = listen(handler)
    conn = await tcp.connect(listener.local_addr)
    conn.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await conn.read(b"\r\n\r\n", timeout=60)
    for _ in range(200):
        await conn.read(64 * 1024, timeout=60)
        assert conns[0].unsent_bytes < 1024 * 1024
    conn.abort()
    await listener.close()
    assert http.service_of(listener).crashes == 0


@pytest.mark.no_engine
async def test_any_number_of_files(tmp_path: Path) -> None:
    """What is remembered of them is bounded, and forgotten when there are too many."""
    (tmp_path / "f").write_bytes(b"x")
    names = [str(tmp_path) + "/" * number + "f" for number in range(1, 1500)]
    for name in names:
        response = http.file(name)
        assert (response.status, response.content_type) == (200, http.file(names[0]).content_type)


@pytest.mark.no_engine
def test_a_file_that_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    file = DiskFile(os.open(path, os.O_RDONLY))
    assert file.status()[:2] == (True, 1)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="the file is closed"):
        file.status()
