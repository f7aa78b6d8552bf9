"""A datagram socket's two queues, what it counts, and how it ends; each engine adds the socket.

Every datagram that the operating system gave this socket is counted once: as received when
the program takes it, and as dropped if the queue is full, if it was truncated, or if it is
unread when the socket is closed. Every datagram that the program sends is counted once, too:
as sent when the operating system took it, and otherwise as dropped or by its error. Until
then it is unread, or unsent.

Datagrams leave the receive queue only in the step in which the reader returns them: a read
that ends early (timeout, cancellation) loses none.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, Final

from silly._engine.drain import Draining
from silly._engine.interface import DatagramLimits, Drain
from silly._values.units import in_seconds
from silly.errors import ConcurrentRead, ConnectionClosed, WriteQueueFull, at_address

__all__ = ["BATCH", "IN_A_ROW", "Mailbox"]

BATCH: Final = 64  # datagrams received or sent with one system call, at most
IN_A_ROW: Final = 1000  # datagrams taken or sent without waiting, before other tasks run
_COMPACT: Final = 256  # taken entries at the head of a queue, before it is moved


class Mailbox:
    """The base of each engine's `Datagrams`."""

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_changes",
        "_dropped_in",
        "_dropped_out",
        "_head",
        "_in_a_row",
        "_kernel_counter",
        "_kernel_drops",
        "_loop",
        "_mail",
        "_max_datagram",
        "_max_payload",
        "_max_queued",
        "_max_unread",
        "_max_unsent",
        "_open",
        "_out",
        "_out_head",
        "_owner",
        "_pending_error",
        "_receive_errors",
        "_received",
        "_send_errors",
        "_sent",
        "_strict",
        "_truncated",
        "_unread_bytes",
        "_unsent_bytes",
    )

    _loop: asyncio.AbstractEventLoop
    _owner: Any
    _open: bool
    _max_datagram: int  # longer ones that are received are truncated
    _max_payload: int  # longer ones cannot be sent
    _max_queued: int
    _max_unread: int
    _max_unsent: int
    _strict: bool
    _mail: list[Any]  # received datagrams; those before `_head` were taken
    _head: int
    _unread_bytes: int
    _out: list[Any]  # datagrams to send; those before `_out_head` were sent
    _out_head: int
    _unsent_bytes: int
    _in_a_row: int
    _changes: list[asyncio.Future[None]]  # of those who wait for room, or for the end
    _pending_error: OSError | None  # of an earlier datagram, for the next reader
    _received: int
    _bytes_in: int
    _sent: int
    _bytes_out: int
    _dropped_in: int
    _dropped_out: int
    _truncated: int
    _kernel_counter: int  # the operating system's counter, when it was last read; -1: never
    _kernel_drops: int
    _send_errors: dict[str, int]
    _receive_errors: dict[str, int]

    def _begin(self, loop: asyncio.AbstractEventLoop, owner: Any, limits: DatagramLimits) -> None:
        """Set up everything but the socket."""
        self._loop = loop
        self._owner = owner
        self._open = True
        self._max_datagram, self._max_queued, self._max_unread, self._max_unsent = limits[:4]
        self._strict = limits[4]
        self._max_payload = 65507  # that of IPv4
        self._mail = []
        self._out = []
        self._changes = []
        self._head = self._out_head = self._unread_bytes = self._unsent_bytes = 0
        self._in_a_row = 0
        self._pending_error = None
        self._received = self._bytes_in = self._sent = self._bytes_out = 0
        self._dropped_in = self._dropped_out = self._truncated = 0
        self._kernel_counter = -1
        self._kernel_drops = 0
        self._send_errors = {}
        self._receive_errors = {}

    # ----------------------------------------------------- implemented by each engine

    def _flush(self) -> None:
        """Send what the operating system takes now."""
        raise NotImplementedError

    def _receive_last(self) -> None:
        """Receive all datagrams that wait in the operating system's buffer."""
        raise NotImplementedError

    def _release(self) -> None:
        """Close the socket."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        raise NotImplementedError

    def _read_kernel_counter(self) -> int:
        """Return how many datagrams the operating system dropped, modulo 2**32; -1: unknown."""
        raise NotImplementedError

    # ---------------------------------------------------------------------- receiving

    def _put(self, data: bytes, peer: Any) -> None:
        """Put a received datagram into the queue, or count it as dropped."""
        unread = len(self._mail) - self._head
        if unread >= self._max_queued or (
            unread and self._unread_bytes + len(data) > self._max_unread
        ):
            self._dropped_in += 1
        else:
            self._mail.append((data, peer))
            self._unread_bytes += len(data)

    def _has_mail(self) -> bool:
        return self._head < len(self._mail)

    def _take(self) -> Any:
        """Remove and return the oldest datagram, with its sender."""
        mail = self._mail
        item = mail[self._head]
        mail[self._head] = None
        self._head += 1
        if self._head == len(mail):
            mail.clear()
            self._head = 0
        elif self._head >= _COMPACT and 2 * self._head >= len(mail):
            del mail[: self._head]
            self._head = 0
        data = item[0]
        length = len(data)
        self._unread_bytes -= length
        self._received += 1
        self._bytes_in += length
        self._in_a_row += 1
        return item

    def _note_receive_error(self, number: int) -> None:
        """Note an error that the network reported for a datagram sent earlier."""
        name = errno.errorcode.get(number, str(number))
        self._receive_errors[name] = self._receive_errors.get(name, 0) + 1
        self._pending_error = OSError(number, os.strerror(number))

    def _take_error(self) -> OSError | None:
        error, self._pending_error = self._pending_error, None
        return None if error is None else at_address(error, self._name())

    # ------------------------------------------------------------------------ sending

    def _accepts(self, length: int, strict: bool) -> bool:
        """Return whether a datagram of *length* bytes may be queued; count it if not.

        Raises:
            ConnectionClosed: the socket is closed.
            ValueError: it is longer than any datagram can be (RFC 768).
            WriteQueueFull: the queue is full, and *strict* is set.
        """
        if not self._open:
            raise self._closed_error()
        if length > self._max_payload:
            raise ValueError(f"a datagram has {self._max_payload:,} bytes at most, not {length:,}")
        unsent = len(self._out) - self._out_head
        if unsent < self._max_queued and (
            not unsent or self._unsent_bytes + length <= self._max_unsent
        ):
            return True
        self._dropped_out += 1
        if strict:
            what = f"{unsent} datagrams ({self._unsent_bytes} bytes) unsent"
            raise WriteQueueFull(what, address=self._name())
        return False

    def _is_crowded(self) -> bool:
        """Return whether the send queue is above its high-water mark: half of its bounds."""
        return (
            2 * (len(self._out) - self._out_head) > self._max_queued
            or 2 * self._unsent_bytes > self._max_unsent
        )

    def _drop_sent(self, count: int) -> None:
        """Remove *count* datagrams from the head of the send queue."""
        self._out_head += count
        if self._out_head == len(self._out):
            self._out.clear()
            self._out_head = 0
        elif self._out_head >= _COMPACT and 2 * self._out_head >= len(self._out):
            del self._out[: self._out_head]
            self._out_head = 0
        if self._changes and not self._is_crowded():
            self._report_change()

    def _note_send_error(self, number: int) -> None:
        """Count the datagram at the head of the send queue as not sent, and remove it."""
        name = errno.errorcode.get(number, str(number))
        self._send_errors[name] = self._send_errors.get(name, 0) + 1
        self._unsent_bytes -= len(self._out[self._out_head][0])
        self._drop_sent(1)

    def _room(self) -> Drain:
        return Draining(self._wait_room)

    async def _wait_room(self) -> None:
        """Wait until the send queue is at half of its bounds, and let other tasks run."""
        self._in_a_row = 0
        if not self._is_crowded():
            await asyncio.sleep(0)
        while self._open and self._is_crowded():
            await self._change()
        if not self._open:
            raise self._closed_error()

    # ----------------------------------------------------------------------- the end

    def _change(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be room, or when the socket is closed."""
        change: asyncio.Future[None] = self._loop.create_future()
        self._changes = [each for each in self._changes if not each.done()]
        self._changes.append(change)
        return change

    def _report_change(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self._flush()
            self._dropped_out += len(self._out) - self._out_head
            self._out.clear()
            self._out_head = self._unsent_bytes = 0
            self._receive_last()
            self._count_kernel_drops()
            self._dropped_in += len(self._mail) - self._head
            self._mail.clear()
            self._head = self._unread_bytes = 0
        finally:
            self._end()

    def _end(self) -> None:
        self._open = False
        self._release()
        self._report_change()
        self._wake_reader()
        self._owner.socket_closed(self)

    async def wait_closed(self) -> None:
        while self._open:
            await self._change()

    @property
    def _is_open(self) -> bool:
        return self._open

    def _name(self) -> str:
        """Return the address for error messages."""
        return str(self._address)  # type: ignore[attr-defined] # of `silly.net.udp.Socket`

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed("socket closed", address=self._name())

    def _concurrent_error(self) -> ConcurrentRead:
        return ConcurrentRead("another task is receiving", address=self._name())

    def _timeout_error(self, timeout: float) -> TimeoutError:
        text = f"No datagram within {in_seconds(timeout)}"
        return TimeoutError(errno.ETIMEDOUT, text, self._name())

    # --------------------------------------------------------------------- the counts

    def _count_kernel_drops(self) -> None:
        counter = self._read_kernel_counter()
        if counter >= 0:
            last = max(self._kernel_counter, 0)
            self._kernel_drops += (counter - last) & 0xFFFFFFFF
            self._kernel_counter = counter

    @property
    def _counts(self) -> dict[str, Any]:
        """The fields of `silly.net.udp.SocketStats`, by name."""
        if self._open:
            self._count_kernel_drops()
        return {
            "received": self._received,
            "bytes_in": self._bytes_in,
            "sent": self._sent,
            "bytes_out": self._bytes_out,
            "dropped_by_kernel": None if self._kernel_counter < 0 else self._kernel_drops,
            "dropped_by_queue": self._dropped_in,
            "truncated": self._truncated,
            "send_dropped": self._dropped_out,
            "send_errors": dict(self._send_errors),
            "receive_errors": dict(self._receive_errors),
            "unread": len(self._mail) - self._head,
            "unread_bytes": self._unread_bytes,
            "unsent": len(self._out) - self._out_head,
            "unsent_bytes": self._unsent_bytes,
        }
