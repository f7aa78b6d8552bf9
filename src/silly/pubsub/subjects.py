"""Subjects and patterns: one meaning on every kind of bus.

A subject is one or more tokens joined by dots: ``room.general.message``. A token is one or
more characters of any script, without whitespace, control characters, ``*`` and ``>``. In a
pattern, a token may also be a wildcard: ``*`` stands for exactly one token, and ``>``, which
must be last, for one or more. ``room.*`` matches ``room.general``, but neither ``room`` nor
``room.general.message``; ``room.>`` matches both of the latter's kind.

These are the rules of NATS. On other brokers, silly translates patterns to something that
matches at least as much, and compares each message with the pattern again.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_SUBJECT", "Pattern", "check_subject", "is_subject"]

MAX_SUBJECT: Final = 255  # bytes in UTF-8

_NAME: Final = r"[^\s.*>\x00-\x1f\x7f-\x9f]+"
_SUBJECT: Final = re.compile(rf"{_NAME}(?:\.{_NAME})*")
_PATTERN: Final = re.compile(rf"(?:(?:\*|{_NAME})\.)*(?:\*|>|{_NAME})")


class Pattern:
    """What a subscription matches: a subject, or a pattern with wildcards."""

    __slots__ = ("_regex", "text")

    def __init__(self, text: str) -> None:
        _check(text, "pattern")
        if not _PATTERN.fullmatch(text):
            raise ValueError(f"pattern {text!r} is invalid: {_fault(text, wildcards=True)}")
        self.text = text
        self._regex: re.Pattern[str] | None = None
        if not self.is_subject:
            tokens = [_WILDCARDS.get(token) or re.escape(token) for token in self.tokens]
            self._regex = re.compile(r"\.".join(tokens))

    @property
    def tokens(self) -> list[str]:
        """Its tokens."""
        return self.text.split(".")

    @property
    def is_subject(self) -> bool:
        """Whether it has no wildcards, so that it matches one subject only."""
        return not {"*", ">"}.intersection(self.tokens)

    def matches(self, subject: str) -> bool:
        """Return whether *subject*, which is valid, is one that this pattern stands for."""
        if self._regex is None:
            return subject == self.text
        return self._regex.fullmatch(subject) is not None


_WILDCARDS: Final = {"*": r"[^.]+", ">": r".+"}


def is_subject(text: str) -> bool:
    """Return whether *text*, which a broker delivered, is a valid subject."""
    return _SUBJECT.fullmatch(text) is not None


def check_subject(subject: str) -> str:
    """Return *subject*.

    Raises:
        TypeError: it is not text.
        ValueError: it is not valid; the message says why.
    """
    _check(subject, "subject")
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"subject {subject!r} is invalid: {_fault(subject, wildcards=False)}")
    return subject


def _check(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str such as 'room.general', not {type(text).__name__}")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} {text!r} is invalid: it has a surrogate character") from None
    if length > MAX_SUBJECT:
        raise ValueError(f"{what} is longer than {MAX_SUBJECT} bytes: {text[:40]!r}...")


def _fault(text: str, *, wildcards: bool) -> str:
    tokens = text.split(".")
    if not text:
        return "it is empty"
    if "" in tokens:
        return "a token is empty: there is a dot at its start or end, or next to another dot"
    if not wildcards and {"*", ">"}.intersection(tokens):
        return "wildcards are for subscriptions; what is published has one subject"
    if ">" in tokens:
        return "'>' stands for all the tokens that follow, so it must be last"
    if "*" in text or ">" in text:
        return "'*' and '>' stand for whole tokens, as in 'room.*', and cannot be parts of one"
    return "it has whitespace or a control character"
