"""What a request carries: parameters of its query, and its body."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from json import JSONEncoder, encoder
from typing import Any, Final
from urllib.parse import urlencode

from silly.net.http.fields import check_field

__all__ = ["Content", "Data", "Fields", "Pairs", "content_of", "fields_of", "json_text", "query_of"]

Fields = Mapping[str, str] | Iterable[tuple[str, str]]
Pairs = Mapping[str, Any] | Iterable[tuple[str, Any]]
# RFC 8259 has no NaN. The encoder is made once: `json.dumps` makes one in each call with options.
_ENCODER: Final = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

Data = bytes | bytearray | memoryview | str | Pairs | AsyncIterable[bytes]


def json_text(value: Any) -> str:
    """Return *value* as JSON.

    Raises:
        TypeError, ValueError: it cannot be written as JSON.
    """
    if _pieces_of is not None:
        try:
            return "".join(_pieces_of(value, 0))
        except (TypeError, ValueError, RecursionError):  # the encoder says what is wrong
            pass
    return _ENCODER.encode(value)


def _native_encoder() -> Callable[[Any, int], Iterable[str]] | None:
    """Return what `JSONEncoder.encode` makes for each call; None if it is not as expected.

    It notes no containers to recognise circles: those end in `RecursionError`.
    """
    make: Any = getattr(encoder, "c_make_encoder", None)
    try:
        made: Callable[[Any, int], Iterable[str]] = make(
            None,
            _ENCODER.default,
            encoder.encode_basestring,
            None,
            _ENCODER.key_separator,
            _ENCODER.item_separator,
            _ENCODER.sort_keys,
            _ENCODER.skipkeys,
            _ENCODER.allow_nan,
        )
        example = {"a": [1, None, "\u00e9"], "": 1.5}
        return made if "".join(made(example, 0)) == _ENCODER.encode(example) else None
    except Exception:  # noqa: BLE001 - it belongs to CPython's implementation
        return None


_pieces_of: Final = _native_encoder()


class Content:
    """The body of a request.

    Attributes:
        body: bytes; or an asynchronous iterable of them, to be sent in chunks.
        content_type: of it, if that is known.
    """

    __slots__ = ("body", "content_type")

    def __init__(
        self, body: bytes | AsyncIterable[bytes] = b"", content_type: str | None = None
    ) -> None:
        self.body = body
        self.content_type = content_type

    @property
    def can_repeat(self) -> bool:
        """Whether it can be sent again."""
        return isinstance(self.body, bytes)


def content_of(data: Data | None, json: Any) -> Content:
    """Return the body that the arguments *data* and *json* stand for.

    Raises:
        TypeError: both are given, or *data* has another type, or *json* cannot be written so.
        ValueError: *json* has numbers that JSON has not.
    """
    if json is not None:
        if data is not None:
            raise TypeError("a request has data= or json=, not both")
        return Content(json_text(json).encode(), "application/json")
    if data is None:
        return Content()
    if isinstance(data, bytes | bytearray | memoryview):
        return Content(bytes(data))
    if isinstance(data, str):
        return Content(data.encode(), "text/plain; charset=utf-8")
    if isinstance(data, AsyncIterable):
        return Content(data)
    if isinstance(data, Mapping | list | tuple):
        text = urlencode(_pairs(data, "data"))
        return Content(text.encode(), "application/x-www-form-urlencoded")
    raise TypeError(
        "data must be bytes, a str, a mapping or list of pairs (a form), or an asynchronous "
        f"iterable of bytes, not {type(data).__name__}"
    )


def query_of(params: Pairs | None) -> str:
    """Return *params* as a query.

    Raises:
        TypeError: they are no mapping or pairs, or a value is no text, number or list of them.
    """
    return "" if params is None else urlencode(_pairs(params, "params"))


def fields_of(headers: Fields | None, reserved: frozenset[str]) -> list[tuple[str, str]]:
    """Return *headers* as pairs, names in lower case.

    Raises:
        TypeError: they are no mapping or pairs of text.
        ValueError: a name or value has characters that would end it, or the field is one of
            *reserved*.
    """
    fields = []
    for name, value in _items(headers or (), "headers"):
        check_field(name, value)
        if name.lower() in reserved:
            raise ValueError(f"{name.lower()} is set by the client")
        fields.append((name.lower(), value))
    return fields


def _items(given: Any, what: str) -> list[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        return list(given.items())
    try:
        if not isinstance(given, str | bytes):
            return [(name, value) for name, value in given]
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{what} must be a mapping, or pairs of names and values, not {given!r}")


def _pairs(given: Any, what: str) -> list[tuple[str, str]]:
    return [
        (_text(name, what), _text(each, f"{what}[{name!r}]"))
        for name, value in _items(given, what)
        for each in (value if isinstance(value, list | tuple) else [value])
        if each is not None
    ]


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise TypeError(f"{what} must be text, a number or a list of them, not {value!r}")
