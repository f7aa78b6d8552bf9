"""What can go wrong on a connection, and which side caused it.

=========================  ==========================================================
the peer finished          `EndOfStream` (an `EOFError`); `TruncatedStream`, if cut off
the peer or network broke  `ConnectionResetError`, `BrokenPipeError`, `TimeoutError`
this side closed           `ConnectionClosed` (a `ConnectionError`)
a limit of this side       `LimitExceeded` (a `ValueError`), `WriteQueueFull`
                           (a `BufferError`)
two tasks collided         `ConcurrentRead` (a `RuntimeError`)
=========================  ==========================================================

Built-in exceptions are raised where one fits; those defined here derive from the
closest built-in, so ``except EOFError`` works as well as ``except EndOfStream``. All of
them name the address of the connection: exceptions defined here in
`SillyError.address`, operating-system errors in `OSError.filename`, and both in the
message, where text that the peer chose (the name of a Unix socket) is escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from silly.text import printable

__all__ = [
    "ConcurrentRead",
    "ConnectionClosed",
    "EndOfStream",
    "LimitExceeded",
    "SillyError",
    "TruncatedStream",
    "WriteQueueFull",
]


class SillyError(Exception):
    """The base of every exception that silly defines.

    Attributes:
        address: the remote address of the connection, as text
            (``"127.0.0.1:9999"``), or empty.
    """

    address: str

    def __init__(self, message: str, *, address: str = "") -> None:
        super().__init__(f"{printable(address)}: {message}" if address else message)
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), str(self), self.__dict__)


def _restored(kind: type[SillyError], message: str, attributes: dict[str, Any]) -> SillyError:
    error = kind(message)  # the message already has the address
    error.__dict__.update(attributes)
    return error


_args_of: Final[Any] = BaseException.__dict__["args"].__get__


class EndOfStream(SillyError, EOFError):  # noqa: N818 - named by what happened
    """The peer finished sending, and the remaining bytes cannot satisfy the read.

    Writing may still work: the peer closed only one direction (RFC 9293,
    section 3.6) and may be waiting for the answer.

    Attributes:
        partial: a copy of the bytes that arrived and are still unread. They
            can still be read: ``await conn.read(conn.unread_bytes)`` returns them.
    """

    partial: bytes

    # An engine makes one for almost every connection, and few are ever shown: their text and
    # address are made when somebody asks. Until then, this returns them, given the error.
    _about: Callable[[EndOfStream], tuple[str, str]]

    def __init__(self, message: str, partial: bytes = b"", *, address: str = "") -> None:
        SillyError.__init__(self, message, address=address)
        self.partial = partial

    def _tell(self) -> None:
        """Make the text and the address, if that was not done yet."""
        about = self.__dict__.pop("_about", None)
        if about is not None:
            text, self.address = about(self)
            BaseException.__init__(self, text)

    if not TYPE_CHECKING:  # which would let every attribute pass

        def __getattr__(self, name: str) -> Any:
            if name == "address" and "_about" in self.__dict__:
                self._tell()
                return self.address
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def args(self) -> tuple[Any, ...]:
        """The text, as in all exceptions."""
        self._tell()
        args: tuple[Any, ...] = _args_of(self)
        return args

    @args.setter
    def args(self, values: tuple[Any, ...]) -> None:
        self._tell()
        BaseException.__init__(self, *values)

    def __str__(self) -> str:
        self._tell()
        return super().__str__()

    def __repr__(self) -> str:
        self._tell()
        return super().__repr__()


class TruncatedStream(EndOfStream):
    """The stream was cut off: its sender did not say that it had finished.

    Only where that can be told: on a connection with a filter, such as one that encrypts.
    ``async for`` raises it, too: the last line may be incomplete.
    """


class ConnectionClosed(SillyError, ConnectionError):  # noqa: N818
    """This side closed the connection, or its sending half ("active closed")."""


class LimitExceeded(SillyError, ValueError):  # noqa: N818
    """No delimiter within the limit of a read; all bytes are still unread."""


class WriteQueueFull(SillyError, BufferError):  # noqa: N818
    """The send queue is full: the peer reads too slowly. Nothing of this write was queued."""


class ConcurrentRead(SillyError, RuntimeError):  # noqa: N818
    """Another task is already reading this connection; its read is not affected."""


def at_address(error: OSError, address: str, cause: str = "") -> OSError:
    """Return *error* as a new exception of the same type that names *address*.

    The text has Python's form for operating-system errors, with the address in place
    of a file name: ``[Errno 111] Connection refused: '127.0.0.1:9999'``. *cause*, if
    any, replaces the text of *error*.
    """
    cause = cause or error.strerror or str(error) or type(error).__name__
    if error.errno is None:  # with a file name, its text would be no more than that
        return type(error)(f"{printable(address)}: {cause}")
    if type(error).__str__ is OSError.__str__:
        named = type(error)(error.errno, cause)
    else:  # such as `ssl.SSLError`: its text is the cause alone, and it has more attributes
        named = type(error)(error.errno, f"{printable(address)}: {cause}")
        vars(named).update(vars(error))
    named.filename = address
    return named
