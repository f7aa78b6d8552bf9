"""A filter at a connection's doors: it turns what is written into other bytes, and back.

Encryption is one. A `Filter` (see interface.py) does no I/O: it takes bytes and returns
bytes. A stream with a filter gives it each piece that it receives (`open`) and hands on what
comes out of it; what the program writes in one turn is given to it together (`seal`) and what
comes out is sent. What a filter itself has to say (a handshake, an alert, its last message)
is sent ahead of that.

Nothing else about a connection changes. Which bytes are counted: the record of the
connection (`Conn.stats`), unread bytes and what a read wants are the program's bytes;
`unsent_bytes`, `max_unsent`, the minimum rate of sending and the first byte that a client
owes are what is on the wire.

As `lifecycle`, this file is compiled a second time for the native engine.
"""

from __future__ import annotations

from silly._engine import stream_errors
from silly._engine.interface import Filter

from .deadlines import Timed  # relative: each engine has a base of its own

__all__ = ["Filtered"]


class Filtered(Timed):
    """The part of a stream that a filter concerns; without one, nothing here is called."""

    __slots__ = ("_filter", "_held", "_plain_in", "_plain_out")

    _filter: Filter | None
    _held: list[bytes] | None  # plaintext that was written before the filter was ready
    _plain_in: int
    _plain_out: int

    def _set_no_filter(self) -> None:
        """Set the state of a new connection."""
        self._filter = None
        self._held = None
        self._plain_in = self._plain_out = 0

    # ----------------------------------------------------- what each engine does its own way

    def _take_unread(self) -> bytes:
        """Remove and return all unread bytes."""
        raise NotImplementedError

    def _use_filter(self) -> None:
        """From now on pass on what is received to `_open`, what is sent to `_seal`."""
        raise NotImplementedError

    def _feed(self, plaintext: bytes) -> None:
        """Take in *plaintext* as if it had been received."""
        raise NotImplementedError

    def _send_wire(self, data: bytes) -> None:
        """Send *data* behind what is queued."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- the filter

    def _put_filter(self, filter: Filter) -> None:  # noqa: A002 - its name
        """Have *filter* at the doors from now on.

        What was written before leaves as it is; what has arrived and was not read is for
        the filter.

        Raises:
            RuntimeError: there is a filter already.
            ConcurrentRead: a task waits in a read.
            ConnectionClosed, OSError: the connection is closed, half-closed or lost.
        """
        if self._filter is not None:
            raise RuntimeError("the connection has a filter already")
        if not self._is_open():
            raise self._writer_error()
        if self._has_reader():
            raise stream_errors.concurrent_read(self)
        self._flush()
        unread = self._take_unread()
        self._plain_in = self._bytes_in - len(unread)
        self._plain_out = self._bytes_out
        self._filter = filter
        self._use_filter()
        self._say(filter.pending())
        if unread:
            self._received_wire(unread)

    async def _wait_ready(self) -> None:
        """Wait until the filter's handshake is complete.

        Raises:
            OSError: the connection was lost, or the handshake failed.
        """
        assert self._filter is not None
        while not self._filter.is_ready:
            if not self._is_open():
                raise self._writer_error()
            if self._ended:
                raise stream_errors.no_handshake(self)
            await self._room_waiter()

    def _open(self, wire: bytes) -> bytes:
        """Return the plaintext of what was received; whatever else follows from it is done."""
        opener = self._filter
        assert opener is not None
        if self._ended or not self._is_unbroken():
            return b""
        was_ready = opener.is_ready
        try:
            plaintext = opener.open(wire)
        except OSError as error:
            self._say(opener.pending())
            self._break(error)
            return b""
        except BaseException:  # a defect of the filter
            self._break(stream_errors.filter_failed())
            raise
        self._say(opener.pending())
        self._plain_in += len(plaintext)
        if not was_ready and opener.is_ready:
            held, self._held = self._held, None
            if held is not None:
                self._say(self._seal(b"".join(held)))
            self._wake_writers()
        return plaintext

    def _seal(self, plaintext: bytes) -> bytes:
        """Return what is to be sent for *plaintext*: nothing yet, if the filter is not ready."""
        sealer = self._filter
        assert sealer is not None
        if sealer.is_ready:
            self._plain_out += len(plaintext)
            return sealer.seal(plaintext)
        if self._held is None:
            self._held = []
        self._held.append(plaintext)
        return b""

    def _say(self, wire: bytes) -> None:
        """Send bytes that came out of the filter."""
        if wire:
            self._bytes_out += len(wire)
            self._send_wire(wire)

    def _say_last(self) -> None:
        if self._filter is not None and self._filter.is_ready and not self._failed:
            self._say(self._filter.finish())

    def _break(self, error: OSError) -> None:
        """End the connection for *error*, which the filter found; what it said of it is sent."""
        self._fail_by(error)
        try:
            if not self._failed and self._unsent():
                self._start_linger()
                self._call_when_empty()
            elif not self._failed:
                self._close_sent()
        finally:
            self._wake_writers()
            self._wake_reader()

    def _received_wire(self, wire: bytes) -> None:
        plaintext = self._open(wire)
        if plaintext:
            self._feed(plaintext)
        if self._filter is not None and self._filter.is_ended and not self._ended:
            self._peer_ended()

    def _peer_finished(self) -> None:
        """Note that nothing more will be received."""
        if self._filter is not None and not self._ended:
            self._truncated = not self._filter.is_ended
            self._wake_writers()  # one of them may wait for the handshake
        self._peer_ended()

    def _received(self) -> int:
        return self._bytes_in if self._filter is None else self._plain_in

    def _unfinished(self) -> int:
        return self._unread() + (0 if self._filter is None else self._filter.unopened)

    @property
    def _counts(self) -> tuple[int, int]:
        """The program's bytes: received, and written ones that the operating system took."""
        if self._filter is None:
            return self._wire_counts
        # What is queued cannot be told apart any more: it counts with its length on the wire.
        return self._plain_in, max(0, self._plain_out - self._unsent())
