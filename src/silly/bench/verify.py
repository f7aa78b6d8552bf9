"""What is wrong with a reply: named as precisely as the bytes allow.

Replies are compared with what must come while they arrive, by the generator. Only
when that fails, the bytes from the first unanswered request on are given to
`diagnose`. The kinds of wrong:

============  ================================================================
corrupt       a byte differs, and nothing that was sent explains it
lost          the reply to a later request came instead, and this one never
reordered     the reply to a later request came first, and this one behind it
duplicate     a reply that had come already came again
misdelivered  it is the reply for another connection
unasked       bytes came to which there is no request
============  ================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from silly.bench.messages import Messages

__all__ = ["Violation", "diagnose", "right_replies"]

_NEAR = 256  # requests, before and behind, whose replies are considered
_SHOWN = 24  # bytes of a reply that are shown


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong reply."""

    kind: str
    request: int
    byte: int
    """The first byte of the reply that differs, from 0."""
    text: str


def diagnose(messages: Messages, first: int, sent: int, received: bytes) -> Violation:
    """Say what is wrong with *received*, which begins where the reply to *first* must.

    Args:
        messages: of the connection.
        first: the first request without a whole reply.
        sent: how many requests were sent: the last is *sent* - 1.
        received: all that came, as far as it was waited for; not right, as a whole.
    """
    count, at = right_replies(messages, first, sent, received)
    number = first + count
    received = received[at:]
    before = _find(messages, range(number - 1, max(-1, number - _NEAR), -1), received)
    if number == sent:
        if before is not None:
            return Violation("duplicate", before, 0, f"the reply to request {before} came twice")
        text = f"{len(received)} bytes came that no request asked for: {_show(received, 0)}"
        return Violation("unasked", number, 0, text)
    expected = messages.reply(number)
    byte = _first_difference(expected, received)
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
        f"expected {_show(expected, byte)}, got {_show(seen, byte)}"
    )
    return Violation("corrupt", number, byte, text)


def right_replies(
    messages: Messages, first: int, sent: int, received: bytes | bytearray
) -> tuple[int, int]:
    """Return how many right replies *received* begins with, and their bytes.

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
    """Return which of *numbers* has the reply that *received* begins with."""
    for number in numbers:
        reply = messages.reply(number)
        if received.startswith(reply) or (len(received) > 8 and reply.startswith(received)):
            return number
    return None


def _first_difference(expected: bytes, received: bytes) -> int:
    for at, (one, other) in enumerate(zip(expected, received, strict=False)):
        if one != other:
            return at
    return min(len(expected), len(received))


def _show(data: bytes, byte: int) -> str:
    """Return the neighbourhood of *byte* as a literal, with dots for what is left out."""
    start = 0 if len(data) <= _SHOWN else max(0, min(byte - _SHOWN // 2, len(data) - _SHOWN))
    shown = data[start : start + _SHOWN]
    before = "…" if start else ""
    behind = "…" if start + _SHOWN < len(data) else ""
    return f"{before}{shown!r}{behind}"
