"""The limits of a bus: what it may hold, and how long anything may take.

Each is defined once, here; the reference has the table, which
``python -m silly.pubsub.limits`` prints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from silly._values.kinds import COUNT, PERIOD, SIZE, Kind

__all__ = ["DEFAULTS", "Limits"]

T = TypeVar("T")


def _limit(default: T, kind: Kind, unit: str, what: str) -> T:
    made: T = dataclasses.field(
        default=default, metadata={"kind": kind, "unit": unit, "help": what}
    )
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bus may hold, and how long anything may take.

    Raises:
        TypeError, ValueError: a value is of the wrong type or out of range.
    """

    max_messages: int = _limit(
        1_000,
        COUNT,
        "messages",
        "queued for a subscription; when another arrives, the oldest is dropped",
    )
    max_bytes: int = _limit(
        16 * 1024 * 1024,
        SIZE,
        "bytes",
        "of data queued for a subscription, likewise; one message always has room",
    )
    max_message_bytes: int = _limit(
        1024 * 1024, SIZE, "bytes", "of data in a message that is published (else `ValueError`)"
    )
    max_unconfirmed: int = _limit(
        10_000,
        COUNT,
        "messages",
        "of this bus that the broker has not confirmed (else `WriteQueueFull`)",
    )
    max_unconfirmed_bytes: int = _limit(
        16 * 1024 * 1024, SIZE, "bytes", "of data in those messages, likewise"
    )
    publish_timeout: float = _limit(
        5.0, PERIOD, "seconds", "for `publish`, with waiting for a broker that is away"
    )
    subscribe_timeout: float = _limit(
        5.0, PERIOD, "seconds", "until the broker has confirmed a subscription, likewise"
    )
    connect_timeout: float = _limit(
        5.0, PERIOD, "seconds", "for each attempt to connect to the broker"
    )
    answer_timeout: float = _limit(
        5.0,
        PERIOD,
        "seconds",
        "for each answer of the broker; then the connection counts as lost",
    )
    heartbeat: float = _limit(
        15.0, PERIOD, "seconds", "without a command, after which the broker is asked for an answer"
    )
    min_reconnect_delay: float = _limit(
        0.1,
        PERIOD,
        "seconds",
        "before the first attempt to reconnect, at most; the delay doubles with each attempt and "
        "is shortened by up to a half at random",
    )
    max_reconnect_delay: float = _limit(5.0, PERIOD, "seconds", "between two attempts, at most")

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            kind: Kind = each.metadata["kind"]
            value: Any = kind.check(getattr(self, each.name), each.name)
            if value is None:
                raise ValueError(f"{each.name} must be a finite number of seconds")
            object.__setattr__(self, each.name, value)


DEFAULTS: Final = Limits()


def table() -> str:
    """Return the reference's table of these limits, in Markdown."""
    rows = ["| field | default | unit | what it bounds |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.default:.15g} | {each.metadata['unit']} | "
        f"{each.metadata['help']} |"
        for each in dataclasses.fields(Limits)
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
