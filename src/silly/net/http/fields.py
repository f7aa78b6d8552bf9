"""Mappings with several values for a name: header fields and query parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar, overload
from urllib.parse import parse_qsl

__all__ = [
    "TOKEN",
    "Headers",
    "Query",
    "ValuesByName",
    "charset_of",
    "check_field",
    "check_value",
]

T = TypeVar("T")
V = TypeVar("V")

MAX_PARAMETERS = 1000

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # section 5.5


def check_field(name: object, value: object) -> None:
    """Check a header field that a program wants to send.

    Raises:
        TypeError: name or value is not a `str`.
        ValueError: it has characters that would end it.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header field has a str as name and as value, not {name!r}: {value!r}")
    if TOKEN.fullmatch(name) is None:
        raise ValueError(f"not a name of a header field: {name!r}")
    check_value(name, value)


def check_value(name: str, value: str) -> None:
    """Check the value of the header field *name* (`ValueError`)."""
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"{name}: not the value of a header field: {value!r}")


def charset_of(content_type: str) -> str:
    """Return the charset that *content_type* names, or UTF-8."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"') or "utf-8"
    return "utf-8"


class Headers(Mapping[str, str]):
    """The header fields of a message, by name; upper and lower case are the same.

    A name that occurs several times has its values joined by commas, as RFC 9110, section
    5.3, defines it; `get_all` returns them one by one (for ``set-cookie``, and for
    values with commas). Iterating yields each name once, in lower case.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Take the fields as bytes, with their names in lower case."""
        self._raw = raw if type(raw) is list else list(raw)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """All fields in their order: names in lower case, and values, as bytes."""
        return self._raw

    def get_all(self, name: str) -> list[str]:
        """Return the values of *name*, in their order; empty if there are none."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for field, value in self._raw if field == wanted]

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str | T) -> str | T: ...
    def get(self, name: str, default: str | T | None = None) -> str | T | None:
        """Return the value of *name*; *default* if there is none."""
        return ", ".join(values) if (values := self.get_all(name)) else default

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self._raw))

    def __len__(self) -> int:
        return len({name for name, _ in self._raw})

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


class ValuesByName(Mapping[str, V]):
    """Values by name.

    Where a name occurs several times, the mapping has its last value; `get_all` returns
    them all.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, V]] = ()) -> None:
        self._pairs = list(pairs)

    @property
    def pairs(self) -> list[tuple[str, V]]:
        """All names and values, in their order."""
        return self._pairs

    def get_all(self, name: str) -> list[V]:
        """Return the values of *name*, in their order; empty if there are none."""
        return [value for key, value in self._pairs if key == name]

    def __getitem__(self, name: str) -> V:
        for key, value in reversed(self._pairs):
            if key == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pairs!r})"


class Query(ValuesByName[str]):
    """The parameters of a query, by name (see `ValuesByName`)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, *, strict: bool = False) -> Query:
        """Return the parameters in *text* (application/x-www-form-urlencoded).

        Args:
            strict: raise `UnicodeDecodeError` for what is not UTF-8, instead of replacing it.

        Raises:
            ValueError: there are more than 1000.
        """
        if not text:
            return _EMPTY
        return cls(
            parse_qsl(
                text,
                keep_blank_values=True,
                errors="strict" if strict else "replace",
                max_num_fields=MAX_PARAMETERS,
            )
        )


_EMPTY = Query()
