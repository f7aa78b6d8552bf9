"""The diagnosis of a wrong reply, as precise as the bytes allow.

The generator compares replies with the expected bytes as they arrive. If they differ,
`diagnose` gets all bytes from the first unanswered request on. The kinds of error:

============  ================================================================
corrupt       a byte differs, and no other reply explains it
lost          the reply to a later request arrived in place of this one
reordered     the reply to a later request arrived first, then this one
duplicate     a reply that had already arrived, arrived again
misdelivered  the reply is for another connection
unasked       bytes arrived that no request asked for
============  ================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from silly._values.units import counted
from silly.bench.messages import Messages

__all__ = ["Violation", "correct_replies", "diagnose", "first_difference", "shown"]

_NEAR = 256  # earlier and later requests whose replies are considered
_SHOWN = 24  # bytes of a reply to show


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong reply."""

    kind: str
    request: int
    byte: int
    """The first byte of the reply that differs, from 0."""
    text: str


def diagnose(messages: Messages, first: int, sent: int, received: bytes) -> Violation:
    """Return what is wrong with *received*, which should begin with the reply to *first*.

    Args:
        messages: the messages of the connection.
        first: the first request without a complete reply.
        sent: the number of requests sent: the last one is *sent* - 1.
        received: the bytes that arrived; they differ from the expected replies.
    """
    count, at = correct_replies(messages, first, sent, received)
    number = first + count
    received = received[at:]
    before = _find(messages, range(number - 1, max(-1, number - _NEAR), -1), received)
    if number == sent:
        if before is not None:
            return Violation("duplicate", before, 0, f"the reply to request {before} came twice")
        size = counted(len(received), "byte")
        text = f"{size} arrived that no request asked for: {shown(received, 0)}"
        return Violation("unasked", number, 0, text)
    expected = messages.reply(number)
    byte = first_difference(expected, received)
    seen = received[: max(byte + 1, len(expected))]
    later = _find(messages, range(number + 1, min(sent, number + _NEAR)), received)
    if later is not None:
        kind = "reordered" if expected in received else "lost"
        what = "came before it" if kind == "reordered" else "came in its place"
        text = f"request {number}: the reply to request {later} {what} (byte {byte} differs)"
        return Violation(kind, number, byte, text)
    if before is not None:
        text = f"the reply to request {before} came twice, the second time for request {number}"
        return Violation("duplicate", before, byte, f"{text} (byte {byte} differs)")
    other = messages.addressee(received)
    if other is not None and other != messages.addressee(expected):
        text = f"request {number}: the reply is for connection {other} (byte {byte} differs)"
        return Violation("misdelivered", number, byte, text)
    text = (
        f"request {number}: byte {byte} of the reply is wrong: "
        f"expected {shown(expected, byte)}, got {shown(seen, byte)}"
    )
    return Violation("corrupt", number, byte, text)


def correct_replies(
    messages: Messages, first: int, sent: int, received: bytes | bytearray
) -> tuple[int, int]:
    """Return how many correct replies *received* begins with, and their size in bytes.

    The arguments are those of `diagnose`.
    """
    number, at = first, 0
    while number < sent:
        reply = messages.reply(number)
        if not received.startswith(reply, at):
            break
        at += len(reply)
        number += 1
    return number - first, at


def _find(messages: Messages, numbers: range, received: bytes) -> int | None:
    """Return the request among *numbers* whose reply *received* begins with, if any."""
    for number in numbers:
        reply = messages.reply(number)
        if received.startswith(reply) or (len(received) > 8 and reply.startswith(received)):
            return number
    return None


def first_difference(expected: bytes, received: bytes) -> int:
    """Return the first byte in which they differ, from 0."""
    for at, (one, other) in enumerate(zip(expected, received, strict=False)):
        if one != other:
            return at
    return min(len(expected), len(received))


def shown(data: bytes, byte: int) -> str:
    """Return the bytes around *byte* as a literal, with dots for omitted ones."""
    start = 0 if len(data) <= _SHOWN else max(0, min(byte - _SHOWN // 2, len(data) - _SHOWN))
    piece = data[start : start + _SHOWN]
    before = "…" if start else ""
    after = "…" if start + _SHOWN < len(data) else ""
    return f"{before}{piece!r}{after}"
