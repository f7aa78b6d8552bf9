"""The limits of a listener: the resources that clients may use.

Each field of `Limits` is defined once, with its default, its unit and what it does.
Everything else derives from that: the environment variable
(``SILLY_MAX_CONNECTIONS``), the command-line flag (``--max-connections``), the
checks, and the table in the reference, which ``python -m silly.net.limits``
prints.

The defaults suit a port on the open internet: no client can hold memory, a connection
or a descriptor forever, and well-behaved clients do not meet them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from silly._engine.interface import HANDSHAKE_TIMEOUT, LINGER, MAX_UNSENT, READ_LIMIT
from silly._values import units
from silly._values.arguments import size
from silly._values.kinds import BYTE_RATE, COUNT, DURATION, PERIOD, RATE, SIZE, Kind
from silly.net.networks import NETWORKS

__all__ = ["LimitField", "Limits", "set_flags"]

T = TypeVar("T")

OFF: Final = "none"  # None, in the environment and in flags


# ---------------------------------------------------------------- kinds of value


def _memory(value: Any, name: str) -> int | str:
    if isinstance(value, str):
        number, percent, rest = value.partition("%")
        if percent and not rest and 0 < float(number) <= 100:
            return value
        raise ValueError(f"{name} must be a number of bytes, or a share such as '25%'")
    return size(value, name, least=1)


_MEMORY: Final = Kind(
    "SIZE",
    lambda text: text if text.endswith("%") else units.size(text),
    expected="a size such as 512M, or a share of the machine's memory such as 25%",
    check=_memory,
)


def _or_off(kind: Kind) -> Kind:
    """Return *kind* with None, written as ``none``."""

    def read(text: str) -> Any:
        if text.strip().lower() == OFF:
            return None
        try:
            return kind.parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {OFF}") from None

    return Kind(
        kind.metavar,
        read,
        lambda value: OFF if value is None else kind.text(value),
        check=lambda value, name: None if value is None else kind.check(value, name),
    )


def _limit(default: T, kind: Kind, unit: str, what: str, *, optional: bool = True) -> T:
    kind = _or_off(kind) if optional else kind
    metadata = {"kind": kind, "unit": unit, "help": what, "optional": optional}
    made: T = dataclasses.field(default=default, metadata=metadata)
    return made


# -------------------------------------------------------------------- the limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The resources that the clients of one listener may use; None switches a limit off.

    The reference says what happens to a connection that exceeds a limit; it is
    counted in `ListenerStats.refused` or `ListenerStats.ended`.

    Deadlines are checked periodically, not with a timer for each connection: at
    intervals of an eighth of the shortest, 30 seconds at most. A connection is ended
    up to two such intervals after its deadline.

    Raises:
        TypeError, ValueError: a value is of the wrong type or out of range; the
            message names the field and what was expected.
    """

    max_connections: int | None = _limit(
        100_000,
        COUNT,
        "connections",
        "open at a time on the listener; with `--workers`, in each worker",
    )
    max_per_client: int | None = _limit(
        1_000,
        COUNT,
        "connections",
        "open at a time from one client address (IPv6: from one /64 network); with "
        "`--workers`, in each worker",
    )
    exempt_networks: tuple[str, ...] = _limit(
        ("127.0.0.0/8", "::1/128"),
        NETWORKS,
        "networks",
        "that `max_per_client` does not apply to, such as those of proxies; it never "
        "applies to Unix sockets",
        optional=False,
    )
    accept_rate: float | None = _limit(
        None,
        RATE,
        "connections/second",
        "accepted on average, in each worker, with bursts of one second's worth; only the "
        "service knows how many are legitimate",
    )
    read_limit: int = _limit(
        READ_LIMIT,
        SIZE,
        "bytes",
        "that may be unread before receiving stops; also the longest line",
        optional=False,
    )
    max_unsent: int = _limit(
        MAX_UNSENT, SIZE, "bytes", "that may be queued before `write` refuses more", optional=False
    )
    memory_budget: int | str | None = _limit(
        "25%",
        _MEMORY,
        "bytes",
        "of memory for the unread and unsent bytes of all connections together; or a share of "
        "the memory of the machine or container. Beyond it, the connections that hold the most "
        "memory for the least traffic are reset",
    )
    handshake_timeout: float | None = _limit(
        HANDSHAKE_TIMEOUT,
        PERIOD,
        "seconds",
        "for all that precedes the handler, such as a PROXY header and a TLS handshake, together",
    )
    max_handshakes_per_client: int | None = _limit(
        100,
        COUNT,
        "handshakes",
        "of TLS in progress at a time with one client address (IPv6: one /64 network); "
        "further ones wait, within `handshake_timeout`",
    )
    idle_timeout: float | None = _limit(
        3600.0, PERIOD, "seconds", "without a byte in either direction"
    )
    first_byte_timeout: float | None = _limit(
        60.0,
        PERIOD,
        "seconds",
        "until the client's first byte, while the handler waits for it and has not written "
        "anything",
    )
    read_deadline: float | None = _limit(
        120.0,
        PERIOD,
        "seconds",
        "from the first byte of a line or frame to its last, while the handler waits for it",
    )
    min_receive_rate: float | None = _limit(
        4096.0,
        BYTE_RATE,
        "bytes/second",
        "every this many bytes received extend the read deadline by one second",
    )
    min_send_rate: float | None = _limit(
        500.0,
        BYTE_RATE,
        "bytes/second",
        "that the client must read on average, while more is queued for it, here or in the kernel",
    )
    send_window: float = _limit(
        120.0,
        PERIOD,
        "seconds",
        "over which that average is taken (a slow client takes large pieces at long intervals)",
        optional=False,
    )
    max_head_bytes: int = _limit(
        64 * 1024, SIZE, "bytes", "of the head of an HTTP request (else 431)", optional=False
    )
    max_headers: int = _limit(
        100, COUNT, "header fields", "of an HTTP request (else 431)", optional=False
    )
    max_target_bytes: int = _limit(
        8 * 1024, SIZE, "bytes", "of the target of an HTTP request (else 414)", optional=False
    )
    max_body_bytes: int = _limit(
        16 * 1024 * 1024, SIZE, "bytes", "of the body of an HTTP request (else 413)", optional=False
    )
    max_pipelined: int = _limit(
        1_000,
        COUNT,
        "HTTP requests",
        "that arrive before the first of them is answered (else 429, after the others)",
        optional=False,
    )
    head_timeout: float = _limit(
        10.0,
        PERIOD,
        "seconds",
        "from the first byte of the head of an HTTP request to its last (else 408)",
        optional=False,
    )
    keep_alive_timeout: float = _limit(
        75.0, PERIOD, "seconds", "without an HTTP request on an open connection", optional=False
    )
    max_message_bytes: int = _limit(
        1024 * 1024,
        SIZE,
        "bytes",
        "of a WebSocket message, decompressed (else closed with 1009)",
        optional=False,
    )
    max_fragments: int = _limit(
        10_000, COUNT, "frames", "of a WebSocket message (else closed with 1009)", optional=False
    )
    max_control_rate: float | None = _limit(
        1_000.0,
        RATE,
        "control frames/second",
        "such as pings, on a WebSocket (else closed with 1008)",
    )
    ping_interval: float | None = _limit(
        20.0,
        PERIOD,
        "seconds",
        "without a byte from the other end of a WebSocket, after which it is pinged",
    )
    ping_timeout: float | None = _limit(
        20.0, PERIOD, "seconds", "without a byte after that ping, before the connection is ended"
    )
    close_timeout: float = _limit(
        10.0,
        PERIOD,
        "seconds",
        "for the other end of a WebSocket to answer a close frame, before it is reset",
        optional=False,
    )
    linger: float = _limit(
        LINGER, DURATION, "seconds", "for which `close` keeps sending", optional=False
    )

    def __post_init__(self) -> None:
        for each in self.fields():
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))

    @classmethod
    def none(cls) -> Self:
        """Return limits with every optional one off; the others have their defaults."""
        off: dict[str, Any] = {each.name: None for each in cls.fields() if each.optional}
        return cls(**off)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Return the limits set by command-line flags and the environment; others are defaults.

        ``SILLY_MAX_CONNECTIONS=500``, ``SILLY_IDLE_TIMEOUT=30s`` and so on; ``none``
        switches a limit off. The flags of ``silly FILE.py``, such as
        ``--max-connections``, take precedence over the environment.

        Args:
            environ: use these variables and no flags; None for `os.environ` and flags.

        Raises:
            ValueError: a variable's value is invalid; the message names the variable.
        """
        flags = _flags if environ is None else {}
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for each in cls.fields():
            text = environ.get(each.env)
            if text is not None:
                values[each.name] = each.parse(text, each.env)
        return cls(**(values | flags))

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value comes from: ``"code"``, ``"flag"``, ``"environment"`` or ``"default"``.

        That is the order of precedence. A value that the code sets is attributed to
        another source if it is the same there.
        """
        return {each.name: self._origin(each) for each in self.fields()}

    def _origin(self, field: LimitField) -> str:
        value = getattr(self, field.name)
        if field.name in _flags and value == _flags[field.name]:
            return "flag"
        with contextlib.suppress(ValueError):
            if (text := os.environ.get(field.env)) is not None and value == field.parse(text):
                return "environment"
        return "default" if value == field.default else "code"

    @classmethod
    def fields(cls) -> tuple[LimitField, ...]:
        """Return the fields, with name, flag, environment variable, unit and help."""
        return tuple(LimitField(each) for each in dataclasses.fields(cls))


_flags: dict[str, Any] = {}


def set_flags(values: Mapping[str, Any]) -> None:
    """Set the *values*, by field, that the command line gives; they override the environment."""
    _flags.clear()
    _flags.update(values)


class LimitField:
    """One field of `Limits`; command lines, the environment and the docs derive from it."""

    __slots__ = ("default", "help", "kind", "name", "optional", "unit")

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        self.name: str = field.name
        self.default: Any = field.default
        self.unit: str = field.metadata["unit"]
        self.help: str = field.metadata["help"]
        self.optional: bool = field.metadata["optional"]
        self.kind: Kind = field.metadata["kind"]

    @property
    def env(self) -> str:
        """The environment variable, such as ``SILLY_MAX_CONNECTIONS``."""
        return f"SILLY_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The command-line flag, such as ``--max-connections``."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """Return *value* as stored; raise `TypeError` or `ValueError` if it is invalid."""
        return self.kind.check(value, self.name)

    def parse(self, text: str, source: str = "") -> Any:
        """Return the value that *text* stands for (``none`` switches an optional limit off).

        Raises:
            ValueError: *text* is invalid; the message names *source*, or the field's
                flag if *source* is empty.
        """
        try:
            return self.kind.parse(text)
        except ValueError as error:
            raise ValueError(f"{source or self.flag}: {error}") from None

    @property
    def default_text(self) -> str:
        """The default as text that `parse` accepts."""
        return self.text(self.default)

    def text(self, value: Any) -> str:
        """Return *value* as text that `parse` accepts."""
        if value is None:
            return OFF
        if isinstance(value, tuple):
            return ",".join(value)
        return f"{value:.15g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Return the reference's table of the limits, in Markdown."""
    rows = ["| field | default | unit | what it bounds |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.default_text} | {each.unit} | {each.help} |"
        for each in Limits.fields()
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
