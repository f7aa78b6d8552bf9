"""Files as responses: one file, and all files of a directory."""

from __future__ import annotations

import errno
import functools
import mimetypes
import os
import re
import stat
import sys
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from silly._engine import engine
from silly.net.http.bases import Headers
from silly.net.http.conditional import Unsatisfiable, conditions, precondition, requested_range
from silly.net.http.disk import DiskFile, FilePieces
from silly.net.http.errors import HTTPError
from silly.net.http.request import decoded_path
from silly.net.http.response import Response

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import plain_file
else:
    from silly.net.http.parts import plain_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from silly.net.http.request import Request

__all__ = ["file", "files"]

INDEX: Final = "index.html"
_REMEMBERED: Final = 1024  # files whose header fields are remembered
WELL_KNOWN: Final = ".well-known"  # RFC 8615

# Without the tables of the machine, so that a program answers the same everywhere.
_TYPES: Final = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".avif": "image/avif",
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _suffix)
_COMPRESSED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}
_ABSENT: Final = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENXIO)
)
_SEPARATORS: Final = re.compile(r"[/\\\0]")
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # which a FIFO would block without


def file(
    path: str | os.PathLike[str],
    *,
    content_type: str | None = None,
    download: str | None = None,
    headers: Headers = (),
) -> Response:
    """Return a response with the content of a file.

    The server answers what the request asks for: a range (206, 416), or only whether
    the file has changed (``If-None-Match``, ``If-Modified-Since``: 304; ``If-Match``,
    ``If-Unmodified-Since``: 412). The file is sent in pieces, at the pace of the client. If it
    becomes shorter meanwhile, the connection is cut.

    Never make *path* of what a client sent: `files` does that safely.

    Args:
        content_type: None: by the suffix of the path; text is UTF-8.
        download: the name under which a browser is to save it.
        headers: further header fields, as for `Response`.

    Raises:
        HTTPError: there is no such file, or it is none (404), or it is not readable (403).
        OSError: another reason why it cannot be opened.
    """
    return _opened(os.fspath(path), 0, content_type, download, headers)


def _opened(
    path: str, flags: int, content_type: str | None, download: str | None, headers: Headers
) -> _FileResponse:
    response = plain_file(path, _FLAGS | flags) or _opened_file(path, _FLAGS | flags)
    if content_type:
        response.content_type = content_type
    if content_type or headers:
        response._check(headers)
    if download is not None:
        name = quote(download, safe="")
        response.add_header("content-disposition", f"attachment; filename*=UTF-8''{name}")
    return response


def _opened_file(path: str, flags: int) -> _FileResponse:
    try:
        opened = DiskFile(os.open(path, flags))
    except ValueError:  # it has a NUL
        raise HTTPError(404) from None
    except PermissionError:
        raise HTTPError(403) from None
    except OSError as error:
        if error.errno in _ABSENT:
            raise HTTPError(404) from None
        raise
    is_regular, size, opened.modified = opened.status()
    if not is_regular:
        raise HTTPError(404)
    response = _FileResponse(b"", content_type=_type_of(path))
    response.body = FilePieces(opened, 0, size)
    response._fields = _fields(size, opened.modified)
    return response


@functools.lru_cache(maxsize=_REMEMBERED)
def _type_of(path: str) -> str:
    kind, encoding = _TYPES.guess_type(os.path.basename(path))  # noqa: PTH119
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return sys.intern(f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)


@functools.lru_cache(maxsize=_REMEMBERED)
def _fields(size: int, modified: int) -> tuple[tuple[str, str], ...]:
    """Return the header fields of a file; the first is its entity tag."""
    return (
        ("etag", f'"{modified:x}-{size:x}"'),
        ("last-modified", formatdate(modified // 1_000_000_000, usegmt=True)),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
    )


class _FileResponse(Response):
    """A file, until `_prepare` makes it what a request asks for."""

    _is_prepared = False

    def _length(self) -> int | None:
        return self.body.size if isinstance(self.body, FilePieces) else None

    def _prepare(self, request: Request) -> None:
        if self._is_prepared:
            return
        self._is_prepared = True
        part = self.body
        if (
            self.status != 200
            or request.method not in {"GET", "HEAD"}
            or not isinstance(part, FilePieces)
        ):
            return
        asked = conditions(request.raw_headers)
        if not asked:
            return
        tag = _fields(part.size, part.file.modified)[0][1]
        modified = part.file.modified // 1_000_000_000
        status = precondition(asked, tag, modified)
        if status is not None:
            self._become(status)
        elif request.method == "GET":  # section 14.2
            self._take_range(asked, tag, modified, part)

    def _take_range(
        self, asked: dict[str, str], tag: str, modified: int, whole: FilePieces
    ) -> None:
        try:
            found = requested_range(asked, tag, modified, whole.size)
        except Unsatisfiable:
            self._become(416)
            self._fields = (*self._fields, ("content-range", f"bytes */{whole.size}"))
            return
        if found is not None:
            start, size = found
            self.status = 206
            self.body = FilePieces(whole.file, start, size)
            text = f"bytes {start}-{start + size - 1}/{whole.size}"
            self._fields = (*self._fields, ("content-range", text))

    def _become(self, status: int) -> None:
        """Become a response without content."""
        self.status = status
        self.body = b""


def files(
    directory: str | os.PathLike[str],
    *,
    index: str = INDEX,
    dotfiles: bool = False,
    headers: Headers = (),
) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that answers with the files of *directory*, for `Router.mount`.

    ::

        routes.mount("/static", http.files("static"))

    Only files inside the directory are served: a path with ``..``, a backslash or a NUL, and
    a symbolic link that leads out of the directory, are answered with 404. So are
    directories without an index: their content is never listed.

    Args:
        index: the file that is served for a directory.
        dotfiles: whether to serve files and directories whose name begins with a dot;
            ``.well-known`` (RFC 8615) is served always.
        headers: further header fields of each response, such as ``cache-control``.

    Raises:
        NotADirectoryError, FileNotFoundError: *directory* is none.
    """
    root = Path(directory).resolve(strict=True)
    if not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    pairs = Response(headers=headers).headers  # checked here, not at the first request

    async def serve(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            allow = {"allow": "GET, HEAD, OPTIONS"}
            if request.method == "OPTIONS":
                return Response(b"", 204, allow)
            raise HTTPError(405, headers=allow)
        path = _chosen(root, request.raw_sub_path, index, dotfiles=dotfiles)
        if path is None:
            return _redirect(request)
        response = _opened(path, os.O_NOFOLLOW, None, None, pairs)
        response._prepare(request)
        return response

    return serve


def _chosen(root: Path, raw_path: str, index: str, *, dotfiles: bool) -> str | None:
    """Return the file that a path names; None if it lacks the slash at the end of a directory."""
    *parents, name = (decoded_path(piece) for piece in raw_path.split("/"))
    parents = parents[1:]  # a path begins with a slash
    for segment in (*parents, name) if name else parents:
        is_hidden = segment[:1] == "." and not dotfiles and segment != WELL_KNOWN
        if segment in {"", ".", ".."} or is_hidden or _SEPARATORS.search(segment) is not None:
            raise HTTPError(404)
    if name and _is_plain(plain := "/".join((str(root), *parents, name)), len(parents) + 1):
        return plain
    path = _inside(root, root.joinpath(*parents, name))
    is_directory = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for long names
    if is_directory:
        path = _inside(root, path / index)
        if name or not raw_path:
            if not path.is_file():
                raise HTTPError(404)
            return None
    elif not name:
        raise HTTPError(404)
    return str(path)


def _is_plain(path: str, depth: int) -> bool:
    """Return whether *path* is a file, and none of its last *depth* names is a symbolic link."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        for _ in range(depth - 1):
            path = path.rpartition("/")[0]
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return False
    except (OSError, ValueError):
        return False
    return True


def _inside(root: Path, path: Path) -> Path:
    """Return *path* without symbolic links, if it is below *root*."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        raise HTTPError(404) from None
    if not real.is_relative_to(root):
        raise HTTPError(404)
    return real


def _redirect(request: Request) -> Response:
    path, mark, query = request.target.partition("?")
    return Response(b"", 308, {"location": f"{path}/{mark}{query}"})


if engine.NAME == "native":
    from silly.net.http import parts

    parts.use(_FileResponse, DiskFile, FilePieces, _type_of, _fields, _REMEMBERED)
