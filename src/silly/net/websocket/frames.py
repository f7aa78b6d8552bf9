"""Frames of the WebSocket protocol (RFC 6455, section 5), and the messages in them.

`Parser` takes bytes, however the network has split them, and returns the messages that are
complete. It checks what it gets while it arrives: text is refused at its first byte that is
not UTF-8, a message at the header of the frame that makes it too long.

`frames_native.pyx` is the twin of this module for the native engine; `kinds.py` chooses.
"""

from __future__ import annotations

import codecs
import os
from typing import Any, Final, Protocol

from silly.net.websocket.codes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    RSV1,
    TEXT,
    Failure,
)

__all__ = ["Parser", "frame", "framed", "masked", "new_key", "plain"]

_MAX_CONTROL: Final = 125  # bytes of the payload of a control frame
_LONGEST_HEADER: Final = 14


class Inflating(Protocol):
    """Decompresses messages."""

    @property
    def held(self) -> int:
        """Bytes of memory that it takes now."""

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what *data* continues; more than *most* bytes, but not much more, if it is."""

    def finish(self, most: int) -> bytes:
        """Return the end of the message, likewise."""


def masked(data: bytes, key: bytes, start: int = 0) -> bytes:
    """Return *data* masked, or unmasked, with the four bytes of *key*.

    Args:
        start: how many bytes of the payload came before.
    """
    length = len(data)
    if start & 3:
        key = key[start & 3 :] + key[: start & 3]
    repeated = key * (length // 4) + key[: length % 4]
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return mixed.to_bytes(length, "little")


_keys = b""


def new_key() -> bytes:
    """Return four unpredictable bytes (section 5.3)."""
    global _keys  # noqa: PLW0603 - one supply per process
    if not _keys:
        _keys = os.urandom(1024)
    key, _keys = _keys[:4], _keys[4:]
    return key


def _forget_keys() -> None:
    """In a forked child: its keys must not be those of the parent."""
    global _keys  # noqa: PLW0603 - see above
    _keys = b""


os.register_at_fork(after_in_child=_forget_keys)


def frame(first: int, payload: str | bytes, key: bytes | None = None) -> bytes:
    """Return a frame.

    Args:
        first: its first byte: FIN, RSV1 and the opcode.
        payload: `str` is sent as UTF-8.
        key: to mask it with, which clients must do; None: not masked.

    Raises:
        UnicodeEncodeError: *payload* has surrogates.
    """
    if isinstance(payload, str):
        payload = payload.encode()
    head = header(first, len(payload), is_masked=key is not None)
    return head + payload if key is None else head + key + masked(payload, key)


def framed(message: Any) -> bytes:
    """Return the frame of *message*, neither masked nor compressed.

    Raises:
        TypeError: it is neither a `str` nor bytes-like.
        UnicodeEncodeError: it has surrogates.
    """
    payload, first = plain(message)
    return frame(first, payload)


def plain(message: Any) -> tuple[str | bytes, int]:
    """Return *message* as a plain `str` or `bytes`, and the first byte of its frame."""
    if isinstance(message, str):
        return str.__str__(message), FIN | TEXT
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message), FIN | BINARY
    raise TypeError(f"a message is a str, or bytes-like, not {type(message).__name__}")


def header(first: int, length: int, *, is_masked: bool = False) -> bytes:
    """Return the header of a frame, without its key."""
    mask = 0x80 if is_masked else 0
    if length < 126:
        return bytes((first, mask | length))
    if length < 0x10000:
        return bytes((first, mask | 126)) + length.to_bytes(2, "big")
    return bytes((first, mask | 127)) + length.to_bytes(8, "big")


class Parser:
    """Finds the messages in what one end receives.

    Args:
        is_masked: whether frames are masked: those that a server receives.
        max_message: bytes of a message, decompressed.
        max_fragments: frames of a message.
        inflater: decompresses; None: no extension was agreed on.

    Attributes:
        controls: the control frames that were received, as pairs of opcode and payload. None
            if there are none; the user takes them away.
        failure: what is wrong with what was received; nothing more is parsed then, nor after
            a close frame.
        is_partial: a message or a frame has begun, and is incomplete.
        is_quiet: nothing is incomplete, there are no controls, and no failure.
        held: about how many bytes of memory what is incomplete takes.
        received: how many messages were returned.
    """

    __slots__ = (
        "_decoder",
        "_fragments",
        "_inflater",
        "_is_deflated",
        "_is_final",
        "_is_masked",
        "_is_open",
        "_key",
        "_left",
        "_max_fragments",
        "_max_message",
        "_opcode",
        "_parts",
        "_pending",
        "_position",
        "_wire_size",
        "controls",
        "failure",
        "received",
    )

    def __init__(
        self, is_masked: bool, max_message: int, max_fragments: int, inflater: Inflating | None
    ) -> None:
        self._is_masked = is_masked
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._inflater = inflater
        self._is_open = True
        self._pending = b""  # a frame's header, or a control frame, of which more is to come
        self._opcode = 0  # of the message whose frames are being received; 0: there is none
        self._is_deflated = False
        self._parts = bytearray()
        self._decoder: Any = None  # checks the text of such a message
        self._fragments = 0
        self._wire_size = 0  # bytes of its frames
        self._left = 0  # bytes of the present frame that are to come
        self._is_final = False  # it ends the message
        self._key = b""
        self._position = 0  # in the payload of the present frame
        self.controls: list[tuple[int, bytes]] | None = None
        self.failure: Failure | None = None
        self.received = 0

    @property
    def is_partial(self) -> bool:
        """Whether a message or a frame has begun, and is incomplete."""
        return self._opcode != 0 or bool(self._pending)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing but whole messages was received."""
        return self.controls is None and self.failure is None and not self.is_partial

    @property
    def held(self) -> int:
        """About how many bytes of memory what is incomplete takes."""
        inflater = 0 if self._inflater is None else self._inflater.held
        return len(self._parts) + len(self._pending) + inflater

    def close(self) -> None:
        """Forget what is incomplete, and parse nothing more."""
        self._is_open = False
        self._pending = b""
        self._forget_message()

    def receive(self, data: bytes) -> list[str | bytes]:
        """Return the messages that *data*, which was received, completes."""
        messages: list[str | bytes] = []
        if not self._is_open:
            return messages
        if self._pending:
            data = self._pending + data
            self._pending = b""
        try:
            start, end = 0, len(data)
            while start < end and self._is_open:
                if self._left:
                    start = self._take_payload(data, start, messages)
                    continue
                after = self._take_frame(data, start, messages)
                if after == start:
                    self._pending = data[start:]
                    break
                start = after
        except Failure as failure:
            self.failure = failure
            self._is_open = False
            self._forget_message()
        self.received += len(messages)
        return messages

    # --------------------------------------------------------------------------- frames

    def _take_frame(self, data: bytes, start: int, messages: list[str | bytes]) -> int:
        """Take the header at *start*, and a control frame whole; return where it ends.

        If more of it is to come, that is *start*.
        """
        left = len(data) - start
        if left < 2:
            self._check_first(data[start])
            return start
        first, second = data[start], data[start + 1]
        opcode = self._check_first(first)
        if bool(second & 0x80) != self._is_masked:
            raise Failure(1002, "masked frame" if second & 0x80 else "frame without a mask")
        length = second & 0x7F
        size = 2 + (4 if self._is_masked else 0)
        if opcode >= CLOSE:
            return self._take_control(opcode, length, data, start, start + size)
        if length >= 126:
            extended = 2 if length == 126 else 8
            size += extended
            if left < 2 + extended:
                return start
            length = int.from_bytes(data[start + 2 : start + 2 + extended], "big")
            if length >> 63 or length < (126 if extended == 2 else 0x10000):
                raise Failure(1002, "invalid length of a frame")
        self._check_size(opcode, first, length)
        if left < size:
            return start
        body = start + size
        if self._is_masked:
            self._key = data[body - 4 : body]
        self._begin_frame(opcode, first)
        self._left = length
        self._position = 0
        if length == 0:
            self._take_payload(data, body, messages)
        return body

    def _take_control(self, opcode: int, length: int, data: bytes, start: int, body: int) -> int:
        """Take a control frame, whose payload begins at *body*."""
        if length > _MAX_CONTROL:
            raise Failure(1002, "control frame with more than 125 bytes")
        if len(data) < body + length:
            return start
        payload = data[body : body + length]
        if self._is_masked:
            payload = masked(payload, data[body - 4 : body])
        if self.controls is None:
            self.controls = []
        self.controls.append((opcode, payload))
        if opcode == CLOSE:
            self._is_open = False
            self._forget_message()
        return body + length

    def _check_first(self, first: int) -> int:
        """Check the first byte of a frame; return its opcode."""
        opcode = first & 0x0F
        if first & 0x70:
            is_deflated = first & 0x70 == RSV1 and self._inflater is not None
            if not is_deflated or opcode not in {TEXT, BINARY}:
                raise Failure(1002, "reserved bits are set")
        if opcode >= CLOSE:
            if opcode > PING + 1:
                raise Failure(1002, f"unknown opcode {opcode}")
            if not first & FIN:
                raise Failure(1002, "fragmented control frame")
        elif opcode > BINARY:
            raise Failure(1002, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._opcode != 0):
            raise Failure(
                1002,
                "continuation of no message"
                if opcode == CONTINUATION
                else "a new message within one that is incomplete",
            )
        return opcode

    def _check_size(self, opcode: int, first: int, length: int) -> None:
        """Refuse a frame that makes its message too long."""
        if opcode == CONTINUATION:
            if self._fragments >= self._max_fragments:
                raise Failure(1009, f"more than {self._max_fragments} fragments", "max_fragments")
            is_deflated, size, received = self._is_deflated, len(self._parts), self._wire_size
        else:
            is_deflated, size, received = bool(first & RSV1), 0, 0
        if is_deflated:  # its size is known only when it is decompressed
            size, most = received, 2 * self._max_message + 1024
        else:
            most = self._max_message
        if size + length > most:
            raise self._too_long()

    def _begin_frame(self, opcode: int, first: int) -> None:
        self._is_final = bool(first & FIN)
        if opcode == CONTINUATION:
            self._fragments += 1
            return
        self._opcode = opcode
        self._is_deflated = bool(first & RSV1)
        self._fragments = 1
        self._wire_size = 0

    def _too_long(self) -> Failure:
        return Failure(1009, f"more than {self._max_message} bytes", "max_message_bytes")

    # -------------------------------------------------------------------------- payload

    def _take_payload(self, data: bytes, start: int, messages: list[str | bytes]) -> int:
        """Take what *data* has of the present frame's payload; return where that ends."""
        end = min(start + self._left, len(data))
        piece = data[start:end]
        if self._is_masked:
            piece = masked(piece, self._key, self._position)
        self._position += len(piece)
        self._wire_size += len(piece)
        self._left -= len(piece)
        is_complete = self._is_final and not self._left
        is_whole = is_complete and self._fragments == 1 and self._position == len(piece)
        if is_whole and not self._is_deflated:  # as most are
            messages.append(_text(piece) if self._opcode == TEXT else piece)
            self._opcode = 0
            return end
        if self._is_deflated:
            self._inflate(piece, is_complete=is_complete)
        else:
            self._add(piece, is_complete=is_complete)
        if is_complete:
            whole = bytes(self._parts)
            messages.append(whole.decode() if self._opcode == TEXT else whole)
            self._forget_message()
        return end

    def _inflate(self, piece: bytes, *, is_complete: bool) -> None:
        inflater = self._inflater
        assert inflater is not None
        most = self._max_message - len(self._parts)
        inflated = inflater.feed(piece, most)
        if is_complete and len(inflated) <= most:
            inflated += inflater.finish(most - len(inflated))
        if len(inflated) > most:
            self._add(inflated[:most], is_complete=False)
            raise self._too_long()
        self._add(inflated, is_complete=is_complete)

    def _add(self, piece: bytes, *, is_complete: bool) -> None:
        """Add *piece* to the message; check it, if it is text."""
        if self._opcode == TEXT:
            if self._decoder is None:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            try:
                self._decoder.decode(piece, is_complete)
            except UnicodeDecodeError:
                raise Failure(1007, "text that is not UTF-8") from None
            begun = self._decoder.getstate()[0]  # a character of which more is to come
            if len(begun) == 2 and begun[0] == 0xED and begun[1] >= 0xA0:  # never a surrogate
                raise Failure(1007, "text that is not UTF-8")
        self._parts += piece

    def _forget_message(self) -> None:
        self._opcode = 0
        self._left = 0
        self._parts = bytearray()
        self._decoder = None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Failure(1007, "text that is not UTF-8") from None
