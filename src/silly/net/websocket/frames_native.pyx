"""Frames of the WebSocket protocol, and the messages in them: the native `frames.py`.

What that module says is true of this one; its tests run on both. A payload is unmasked on its
way from what was received to the message, eight bytes at a time.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from silly._engine.native.linux cimport PyUnicode_AsUTF8AndSize

import os

from silly.net.websocket.codes import Failure
from silly.net.websocket.frames import plain

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PONG = 10
    FIN = 0x80
    RSV1 = 0x40
    MAX_CONTROL = 125  # bytes of the payload of a control frame
    ON_STACK = 4096  # bytes of text that are unmasked there
    KEYS = 4096  # bytes of keys that are drawn together


# ------------------------------------------------------------------------- masking


cdef void mask_into(
    uint8_t *out, const uint8_t *data, size_t length, const uint8_t *key, uint64_t start
) noexcept nogil:
    """Write *data*, masked or unmasked, to *out*."""
    cdef uint64_t wide, a, b, c, d
    cdef uint8_t bytes_of_key[8]
    cdef size_t i = 0
    for i in range(8):
        bytes_of_key[i] = key[(start + i) & 3]
    memcpy(&wide, bytes_of_key, 8)
    i = 0
    while i + 32 <= length:
        memcpy(&a, data + i, 8)
        memcpy(&b, data + i + 8, 8)
        memcpy(&c, data + i + 16, 8)
        memcpy(&d, data + i + 24, 8)
        a ^= wide
        b ^= wide
        c ^= wide
        d ^= wide
        memcpy(out + i, &a, 8)
        memcpy(out + i + 8, &b, 8)
        memcpy(out + i + 16, &c, 8)
        memcpy(out + i + 24, &d, 8)
        i += 32
    while i + 8 <= length:
        memcpy(&a, data + i, 8)
        a ^= wide
        memcpy(out + i, &a, 8)
        i += 8
    while i < length:
        out[i] = data[i] ^ bytes_of_key[i & 7]
        i += 1


def masked(bytes data not None, bytes key not None, uint64_t start=0):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, length)
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError("a key has four bytes")
    mask_into(
        <uint8_t *>PyBytes_AS_STRING(out), <const uint8_t *>PyBytes_AS_STRING(data),
        <size_t>length, <const uint8_t *>PyBytes_AS_STRING(key), start,
    )
    return out


cdef bytes keys = b""
cdef Py_ssize_t keys_used = 0


def new_key():
    global keys, keys_used
    if keys_used + 4 > PyBytes_GET_SIZE(keys):
        keys = os.urandom(KEYS)
        keys_used = 0
    keys_used += 4
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(keys) + keys_used - 4, 4)


def _forget_keys():
    """In a forked child: its keys must not be those of the parent."""
    global keys
    keys = b""


os.register_at_fork(after_in_child=_forget_keys)


# -------------------------------------------------------------------------- frames


cpdef bytes frame(int first, payload, bytes key=None):
    cdef const uint8_t *data
    cdef Py_ssize_t length
    cdef size_t size
    cdef bytes made
    cdef uint8_t *out
    cdef uint8_t mask = 0 if key is None else 0x80
    cdef int i
    if type(payload) is bytes:
        data = <const uint8_t *>PyBytes_AS_STRING(<bytes>payload)
        length = PyBytes_GET_SIZE(<bytes>payload)
    elif type(payload) is str:
        data = <const uint8_t *>PyUnicode_AsUTF8AndSize(payload, &length)
    else:
        raise TypeError("a payload is a str or bytes")
    size = 2 if length < 126 else 4 if length < 0x10000 else 10
    made = PyBytes_FromStringAndSize(
        NULL, length + <Py_ssize_t>size + (4 if mask else 0)
    )
    out = <uint8_t *>PyBytes_AS_STRING(made)
    out[0] = <uint8_t>first
    if length < 126:
        out[1] = mask | <uint8_t>length
    elif length < 0x10000:
        out[1] = mask | 126
        out[2] = <uint8_t>(length >> 8)
        out[3] = <uint8_t>length
    else:
        out[1] = mask | 127
        for i in range(8):
            out[2 + i] = <uint8_t>(<uint64_t>length >> (56 - 8 * i))
    out += size
    if mask:
        if PyBytes_GET_SIZE(key) != 4:
            raise ValueError("a key has four bytes")
        memcpy(out, PyBytes_AS_STRING(key), 4)
        mask_into(
            out + 4, data, <size_t>length, <const uint8_t *>PyBytes_AS_STRING(key), 0
        )
    else:
        memcpy(out, data, <size_t>length)
    return made


def framed(message):
    if type(message) is bytes:
        return frame(FIN | BINARY, message)
    if type(message) is str:
        return frame(FIN | TEXT, message)
    payload, first = plain(message)
    return frame(first, payload)


# --------------------------------------------------------------------------- UTF-8


cdef struct Utf8:
    uint8_t needed  # bytes that the present character still has
    uint8_t low  # the range of the next of them
    uint8_t high


cdef bint check_utf8(Utf8 *state, const uint8_t *data, size_t length) noexcept nogil:
    """Continue with *data*; return whether it can be UTF-8 (Unicode, table 3-7)."""
    cdef size_t i = 0
    cdef uint64_t word
    cdef uint8_t byte
    while i < length:
        if state.needed == 0:
            while i + 8 <= length:
                memcpy(&word, data + i, 8)
                if word & 0x8080808080808080ULL:
                    break
                i += 8
            if i == length:
                break
            byte = data[i]
            i += 1
            if byte < 0x80:
                continue
            state.low = 0x80
            state.high = 0xBF
            if 0xC2 <= byte <= 0xDF:
                state.needed = 1
            elif 0xE0 <= byte <= 0xEF:
                state.needed = 2
                if byte == 0xE0:
                    state.low = 0xA0
                elif byte == 0xED:
                    state.high = 0x9F
            elif 0xF0 <= byte <= 0xF4:
                state.needed = 3
                if byte == 0xF0:
                    state.low = 0x90
                elif byte == 0xF4:
                    state.high = 0x8F
            else:
                return False
        else:
            byte = data[i]
            i += 1
            if byte < state.low or byte > state.high:
                return False
            state.low = 0x80
            state.high = 0xBF
            state.needed -= 1
    return True


# -------------------------------------------------------------------------- parser


cdef class Parser:
    """See `silly.net.websocket.frames.Parser`."""

    cdef bint _is_masked
    cdef bint _is_open
    cdef bint _is_deflated
    cdef bint _is_final
    cdef uint8_t _opcode
    cdef uint8_t _key[4]
    cdef Utf8 _utf8
    cdef uint32_t _fragments
    cdef uint32_t _max_fragments
    cdef uint64_t _max_message
    cdef uint64_t _wire_size
    cdef uint64_t _left
    cdef uint64_t _position
    cdef object _inflater
    cdef bytes _pending
    cdef bytearray _parts
    cdef public list controls
    cdef public object failure
    cdef readonly uint64_t received

    def __cinit__(self, bint is_masked, max_message, max_fragments, inflater):
        self._is_masked = is_masked
        self._max_message = min(max_message, 1 << 60)
        self._max_fragments = min(max_fragments, 1 << 30)
        self._inflater = inflater
        self._is_open = True

    @property
    def is_quiet(self):
        return (
            self.controls is None and self.failure is None
            and self._opcode == 0 and self._pending is None
        )

    @property
    def held(self):
        cdef Py_ssize_t size = 0 if self._inflater is None else self._inflater.held
        if self._parts is not None:
            size += PyByteArray_GET_SIZE(self._parts)
        if self._pending is not None:
            size += PyBytes_GET_SIZE(self._pending)
        return size

    def close(self):
        self._is_open = False
        self._pending = None
        self.forget_message()

    @property
    def is_partial(self):
        return self._opcode != 0 or self._pending is not None

    def receive(self, bytes data not None):
        cdef list messages = []
        cdef const uint8_t *start
        cdef const uint8_t *end
        cdef const uint8_t *after
        if not self._is_open:
            return messages
        if self._pending is not None:
            data = self._pending + data
            self._pending = None
        start = <const uint8_t *>PyBytes_AS_STRING(data)
        end = start + PyBytes_GET_SIZE(data)
        try:
            while start < end and self._is_open:
                if self._left:
                    start = self.take_payload(start, end, messages)
                    continue
                after = self.take_frame(start, end, messages)
                if after == start:
                    self._pending = PyBytes_FromStringAndSize(<const char *>start, end - start)
                    break
                start = after
        except Failure as failure:
            self.failure = failure
            self._is_open = False
            self.forget_message()
        self.received += <uint64_t>PyList_GET_SIZE(messages)
        return messages

    # ----------------------------------------------------------------------- frames

    cdef const uint8_t *take_frame(
        self, const uint8_t *start, const uint8_t *end, list messages
    ) except NULL:
        cdef size_t left = <size_t>(end - start)
        cdef uint8_t first = start[0], second, opcode
        cdef size_t size, extended
        cdef uint64_t length
        cdef size_t i
        cdef bytes payload
        opcode = self.check_first(first)
        if left < 2:
            return start
        second = start[1]
        if (second & 0x80 != 0) != self._is_masked:
            raise Failure(1002, "masked frame" if second & 0x80 else "frame without a mask")
        length = second & 0x7F
        size = 6 if self._is_masked else 2
        if opcode >= CLOSE:
            if length > MAX_CONTROL:
                raise Failure(1002, "control frame with more than 125 bytes")
            if left < size + length:
                return start
            payload = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
            if self._is_masked:
                mask_into(
                    <uint8_t *>PyBytes_AS_STRING(payload), start + size, <size_t>length,
                    start + 2, 0,
                )
            else:
                memcpy(PyBytes_AS_STRING(payload), start + size, <size_t>length)
            if self.controls is None:
                self.controls = []
            self.controls.append((opcode, payload))
            if opcode == CLOSE:
                self._is_open = False
                self.forget_message()
            return start + size + length
        if length >= 126:
            extended = 2 if length == 126 else 8
            size += extended
            if left < 2 + extended:
                return start
            length = 0
            for i in range(extended):
                length = length << 8 | start[2 + i]
            if length >> 63 or length < (126 if extended == 2 else 0x10000):
                raise Failure(1002, "invalid length of a frame")
        self.check_size(opcode, first, length)
        if left < size:
            return start
        if self._is_masked:
            memcpy(self._key, start + size - 4, 4)
        self._is_final = first & FIN != 0
        if opcode == CONTINUATION:
            self._fragments += 1
        else:
            self._opcode = opcode
            self._is_deflated = first & RSV1 != 0
            self._fragments = 1
            self._wire_size = 0
        self._left = length
        self._position = 0
        if length == 0:
            self.take_payload(start + size, end, messages)
        return start + size

    cdef uint8_t check_first(self, uint8_t first) except 255:
        cdef uint8_t opcode = first & 0x0F
        if first & 0x70:
            if not (
                first & 0x70 == RSV1 and self._inflater is not None
                and (opcode == TEXT or opcode == BINARY)
            ):
                raise Failure(1002, "reserved bits are set")
        if opcode >= CLOSE:
            if opcode > PONG:
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

    cdef int check_size(self, uint8_t opcode, uint8_t first, uint64_t length) except -1:
        cdef bint is_deflated = first & RSV1 != 0
        cdef uint64_t size = 0, received = 0, most = self._max_message
        if opcode == CONTINUATION:
            if self._fragments >= self._max_fragments:
                raise Failure(
                    1009, f"more than {self._max_fragments} fragments", "max_fragments"
                )
            is_deflated = self._is_deflated
            size = 0 if self._parts is None else <uint64_t>PyByteArray_GET_SIZE(self._parts)
            received = self._wire_size
        if is_deflated:  # its size is known only when it is decompressed
            size = received
            most = 2 * most + 1024
        if size + length > most:
            raise self.too_long()
        return 0

    cdef object too_long(self):
        return Failure(1009, f"more than {self._max_message} bytes", "max_message_bytes")

    # ---------------------------------------------------------------------- payload

    cdef const uint8_t *take_payload(
        self, const uint8_t *start, const uint8_t *end, list messages
    ) except NULL:
        cdef size_t length = <size_t>(end - start)
        cdef uint64_t position = self._position
        cdef bint is_complete
        cdef uint8_t *room
        if self._left < length:
            length = <size_t>self._left
        self._position += length
        self._wire_size += length
        self._left -= length
        is_complete = self._is_final and self._left == 0
        if is_complete and position == 0 and self._fragments == 1 and not self._is_deflated:
            # It is whole, as most are.
            if self._opcode == TEXT:
                messages.append(self.text(start, length))
            else:
                messages.append(self.unmasked(start, length, 0))
            self._opcode = 0
            return start + length
        if self._parts is None:
            self._parts = bytearray()
        if self._is_deflated:
            self.inflate(self.unmasked(start, length, position), is_complete)
        else:
            room = self.more_room(<Py_ssize_t>length)
            if self._is_masked:
                mask_into(room, start, length, self._key, position)
            else:
                memcpy(room, start, length)
            self.check_text(room, length, is_complete)
        if is_complete:
            messages.append(
                self._parts.decode() if self._opcode == TEXT else bytes(self._parts)
            )
            self.forget_message()
        return start + length

    cdef uint8_t *more_room(self, Py_ssize_t length) except NULL:
        """Return where the next *length* bytes of the message go."""
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self._parts)
        PyByteArray_Resize(self._parts, size + length)
        return <uint8_t *>PyByteArray_AS_STRING(self._parts) + size

    cdef int check_text(self, const uint8_t *data, size_t length, bint is_complete) except -1:
        if self._opcode == TEXT:
            if not check_utf8(&self._utf8, data, length) or (
                is_complete and self._utf8.needed != 0
            ):
                raise not_text()
        return 0

    cdef bytes unmasked(self, const uint8_t *data, size_t length, uint64_t position):
        cdef bytes piece
        if not self._is_masked:
            return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>length)
        piece = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        if length <= 1:  # such objects are shared
            piece = bytes([data[0] ^ self._key[position & 3]]) if length else b""
        else:
            mask_into(
                <uint8_t *>PyBytes_AS_STRING(piece), data, length, self._key, position
            )
        return piece

    cdef str text(self, const uint8_t *data, size_t length):
        cdef uint8_t on_stack[ON_STACK]
        cdef uint8_t *plain = on_stack
        if self._is_masked:
            if length > ON_STACK:
                plain = <uint8_t *>PyMem_RawMalloc(length)
                if plain == NULL:
                    raise MemoryError  # pragma: no cover
            mask_into(plain, data, length, self._key, 0)
            data = plain
        try:
            return PyUnicode_DecodeUTF8(<char *>data, <Py_ssize_t>length, NULL)
        except UnicodeDecodeError:
            raise not_text() from None
        finally:
            if plain != on_stack:
                PyMem_RawFree(plain)

    cdef int inflate(self, bytes piece, bint is_complete) except -1:
        cdef const uint8_t *data
        cdef uint64_t most = self._max_message - <uint64_t>PyByteArray_GET_SIZE(self._parts)
        cdef bytes inflated = self._inflater.feed(piece, most)
        if is_complete and <uint64_t>PyBytes_GET_SIZE(inflated) <= most:
            inflated += self._inflater.finish(most - <uint64_t>PyBytes_GET_SIZE(inflated))
        data = <const uint8_t *>PyBytes_AS_STRING(inflated)
        if <uint64_t>PyBytes_GET_SIZE(inflated) > most:
            self.check_text(data, <size_t>most, False)
            raise self.too_long()
        self.check_text(data, <size_t>PyBytes_GET_SIZE(inflated), is_complete)
        memcpy(
            self.more_room(PyBytes_GET_SIZE(inflated)), data,
            <size_t>PyBytes_GET_SIZE(inflated),
        )
        return 0

    cdef int forget_message(self) except -1:
        self._opcode = 0
        self._left = 0
        self._parts = None
        self._utf8.needed = 0
        return 0


cdef object not_text():
    return Failure(1007, "text that is not UTF-8")
