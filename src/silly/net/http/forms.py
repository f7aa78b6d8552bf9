"""Forms: fields, and files that are uploaded (RFC 7578).

A form is parsed while it arrives. The content of its files is collected in one place, in
memory at first, and in one temporary file when there is much of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Final

from silly._values.extras import install_command
from silly.net.http.disk import PIECE, DiskFile
from silly.net.http.errors import HTTPError
from silly.net.http.fields import Headers, Query, ValuesByName

__all__ = ["Form", "Upload", "read_form"]

IN_MEMORY: Final = 256 * 1024  # bytes of files of one form, before a temporary file is used
MAX_FIELDS: Final = 1000  # fields and files of one form
MAX_FIELD_BYTES: Final = 1024 * 1024  # all fields of one form together
MAX_PART_HEAD: Final = 8 * 1024  # bytes
MAX_BOUNDARY: Final = 70  # characters (RFC 2046, section 5.1.1)


class _Spool:
    """The content of a form's files, one after the other."""

    __slots__ = ("_file", "_is_closed", "_memory", "_written")

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: DiskFile | None = None
        self._written = 0  # bytes in the file
        self._is_closed = False

    @property
    def size(self) -> int:
        return self._written + len(self._memory)

    def add(self, data: bytes) -> None:
        """Take *data*; `flush` must follow soon."""
        self._memory += data

    async def flush(self) -> None:
        """Write to the file what is too much for memory."""
        if not self._memory or (self._file is None and len(self._memory) <= IN_MEMORY):
            return
        if self._file is None:
            with tempfile.TemporaryFile(buffering=0) as made:
                self._file = DiskFile(os.dup(made.fileno()))
        data, self._memory = bytes(self._memory), bytearray()
        await self._file.append(data)
        self._written += len(data)

    async def read(self, start: int, size: int) -> bytes:
        if self._is_closed:
            raise ValueError("the request has ended, and its uploads with it")
        if self._file is not None:
            return await self._file.read(start, size)
        return bytes(memoryview(self._memory)[start : start + size])

    async def save(self, path: str | os.PathLike[str], start: int, size: int) -> None:
        if self._file is not None and not self._is_closed:
            await self._file.copy(path, start, size)
        else:
            data = await self.read(start, size)
            await asyncio.to_thread(_write, path, data)

    def close(self) -> None:
        self._is_closed = True
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123 - any path
        file.write(data)


class Upload:
    """A file that a form contains. It can be read until the request has been answered.

    Attributes:
        filename: as the client sent it. Never use it as a path.
        content_type: as the client sent it; ``"application/octet-stream"`` if it did not.
        headers: the header fields of this part of the form.
        size: bytes.
    """

    __slots__ = ("_spool", "_start", "content_type", "filename", "headers", "size")

    def __init__(self, filename: str, headers: Headers, spool: _Spool) -> None:
        self.filename = filename
        self.headers = headers
        self.content_type = headers.get("content-type", "application/octet-stream")
        self.size = 0
        self._spool = spool
        self._start = spool.size

    async def read(self) -> bytes:
        """Return the whole content. It can be read again.

        Raises:
            ValueError: the request has been answered.
        """
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the content in pieces."""
        done = 0
        while done < self.size:
            piece = await self._spool.read(self._start + done, min(PIECE, self.size - done))
            yield piece
            done += len(piece)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the content to the file *path*, which is replaced if it exists.

        Raises:
            OSError: it could not be written.
            ValueError: the request has been answered.
        """
        await self._spool.save(path, self._start, self.size)

    def __repr__(self) -> str:
        return f"<Upload {self.filename!r}, {self.size} bytes>"


class Form(Query):
    """The fields of a form, by name.

    Attributes:
        files: the files, by the name of their field; several may have the same one
            (``files.get_all(name)``).
    """

    __slots__ = ("_spool", "files")

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]] = (),
        files: Iterable[tuple[str, Upload]] = (),
        spool: _Spool | None = None,
    ) -> None:
        super().__init__(pairs)
        self.files: ValuesByName[Upload] = ValuesByName(files)
        self._spool = spool

    def close(self) -> None:
        """Remove the temporary file. The server does it once the request has been answered."""
        if self._spool is not None:
            self._spool.close()


async def read_form(content_type: str, body: AsyncIterable[bytes]) -> Form:
    """Read the form in *body*.

    Raises:
        HTTPError: it is malformed (400), too long (413), or *content_type* is none of a
            form (415).
        ImportError: for multipart/form-data: python-multipart is not installed.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return await _read_urlencoded(body)
    if kind == "multipart/form-data":
        reader = _MultipartReader(content_type)
        try:
            return await reader.read(body)
        except BaseException:
            reader.spool.close()
            raise
    raise HTTPError(415, "expected application/x-www-form-urlencoded or multipart/form-data")


async def _read_urlencoded(body: AsyncIterable[bytes]) -> Form:
    text = bytearray()
    async for piece in body:
        text += piece
        if len(text) > MAX_FIELD_BYTES:
            raise HTTPError(413, f"the fields have more than {MAX_FIELD_BYTES} bytes")
    if text.count(b"&") >= MAX_FIELDS:
        raise HTTPError(413, f"more than {MAX_FIELDS} fields")
    try:
        return Form(Query.parse(text.decode("utf-8"), strict=True).pairs)
    except UnicodeDecodeError:
        raise HTTPError(400, "the form is not UTF-8") from None


class _MultipartReader:
    """Takes the parts of a form from the parser."""

    def __init__(self, content_type: str) -> None:
        try:
            from python_multipart import exceptions, multipart  # noqa: PLC0415 - only if needed
        except ImportError:
            raise ImportError(f"forms need python-multipart: {install_command('http')}") from None
        self._options = multipart.parse_options_header
        self._error = exceptions.FormParserError
        boundary = self._options(content_type)[1].get(b"boundary", b"")
        if not 0 < len(boundary) <= MAX_BOUNDARY:
            raise HTTPError(400, "multipart/form-data without a valid boundary")
        self._parser = multipart.MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_name,
                "on_header_value": self._take_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )
        # It would log what a client has got wrong, as often as a client likes.
        self._parser.logger = logging.getLogger(f"{__name__}.parser")
        self._parser.logger.disabled = True
        self.spool = _Spool()
        self._is_finished = False
        self._number = 0  # of parts
        self._field_bytes = 0
        self._head_bytes = 0  # of the present part
        self._name = b""
        self._value = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._field = ""
        self._content = bytearray()
        self._upload: Upload | None = None
        self._pairs: list[tuple[str, str]] = []
        self._files: list[tuple[str, Upload]] = []

    async def read(self, body: AsyncIterable[bytes]) -> Form:
        try:
            async for piece in body:
                if not self._is_finished:  # what follows is to be ignored (RFC 2046)
                    self._parser.write(piece)
                    await self.spool.flush()
        except self._error as error:
            raise HTTPError(400, f"malformed form: {error}") from None
        if not self._is_finished:
            raise HTTPError(400, "malformed form: it ends without its last boundary")
        return Form(self._pairs, self._files, self.spool)

    # ------------------------------------------------------------- called by the parser

    def _begin(self) -> None:
        self._number += 1
        if self._number > MAX_FIELDS:
            raise HTTPError(413, f"more than {MAX_FIELDS} fields and files")
        self._head_bytes = 0
        self._headers = []
        self._content = bytearray()
        self._upload = None

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._value += data[start:end]

    def _count_head(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > MAX_PART_HEAD:
            raise HTTPError(413, f"a part's head has more than {MAX_PART_HEAD} bytes")

    def _end_header(self) -> None:
        self._headers.append((self._name.lower(), self._value))
        self._name = self._value = b""

    def _end_headers(self) -> None:
        headers = Headers(self._headers)
        kind, options = self._options(headers.get("content-disposition", ""))
        if kind != b"form-data" or b"name" not in options:
            raise HTTPError(400, "malformed form: a part has no name")
        self._field = _text(options[b"name"])
        filename = options.get(b"filename")
        if filename is not None:
            self._upload = Upload(_text(filename), headers, self.spool)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._upload is not None:
            self.spool.add(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > MAX_FIELD_BYTES:
            raise HTTPError(413, f"the fields have more than {MAX_FIELD_BYTES} bytes")
        self._content += data[start:end]

    def _end(self) -> None:
        upload = self._upload
        if upload is None:
            self._pairs.append((self._field, _text(self._content)))
            return
        upload.size = self.spool.size - upload._start
        if upload.size or upload.filename:  # else no file was chosen
            self._files.append((self._field, upload))

    def _finish(self) -> None:
        self._is_finished = True


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise HTTPError(400, "the form is not UTF-8") from None
