"""The opening handshake without I/O: what each end refuses, and what they agree on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from silly.net import websocket
from silly.net.http.errors import HTTPError
from silly.net.http.fields import Headers
from silly.net.http.session import ServerSession
from silly.net.limits import Limits
from silly.net.websocket.deflate import Deflate, accept, agreed, shared
from silly.net.websocket.handshake import Agreement, ClientHandshake, answer, checked_subprotocols

pytestmark = pytest.mark.no_engine

VALID = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def asked(
    *more: str, method: str = "GET", version: str = "1.1", body: bytes = b"", **fields: Any
) -> Any:
    """Return a request that is valid but for *fields*, whose names have ``_`` for ``-``."""
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{method} /chat HTTP/{version}"]
    lines += [f"{k}: {v}" for k, v in (VALID | given).items() if v is not None]
    session = ServerSession(Limits())
    session.feed("\r\n".join((*lines, *more, "", "")).encode() + body)
    assert session.error is None
    return session.requests[0]


def refused(request: Any, **options: Any) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        answer(request, **options)
    return caught.value


def test_the_example_of_the_rfc() -> None:
    """RFC 6455, section 1.3."""
    agreement = answer(asked())
    assert agreement == Agreement(
        None, None, (("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"Connection": "keep-alive, Upgrade"},  # as Firefox has it
        {"Connection": "upgrade"},
        {"Connection": "keep-alive,UPGRADE"},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "foo, websocket"},
    ],
)
def test_what_is_unusual_and_valid(fields: dict[str, Any]) -> None:
    assert answer(asked(**fields)).subprotocol is None


def test_fields_that_are_lists_may_come_in_several_lines() -> None:
    request = asked("Connection: Upgrade", Connection="keep-alive")
    assert answer(request).subprotocol is None


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({"Upgrade": None}, 426, "Upgrade must be websocket"),
        ({"Upgrade": "h2c"}, 426, "Upgrade must be websocket"),
        ({"Connection": None}, 400, "Connection must name upgrade"),
        ({"Connection": "keep-alive"}, 400, "Connection must name upgrade"),
        ({"Sec_WebSocket_Key": None}, 400, "no Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": ""}, 400, "16 bytes in base64"),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400, "16 bytes in base64"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400, "16 bytes in base64"),
        ({"Sec_WebSocket_Key": "!" * 24}, 400, "16 bytes in base64"),
        ({"Sec_WebSocket_Version": None}, 400, "no Sec-WebSocket-Version"),
        ({"Sec_WebSocket_Version": "8"}, 426, "must be 13"),
        ({"method": "POST"}, 405, "GET"),
        ({"version": "1.0"}, 400, "HTTP/1.1"),
        ({"Content_Length": "1", "body": b"x"}, 400, "no body"),
    ],
)
def test_invalid_requests(options: dict[str, Any], status: int, text: str) -> None:
    error = refused(asked(**options))
    assert error.status == status
    assert text in error.text
    if status == 426:
        assert error.headers == {"upgrade": "websocket", "sec-websocket-version": "13"}
    assert (status == 405) == (error.headers == {"allow": "GET"})


@pytest.mark.parametrize("name", ["Sec-WebSocket-Key", "Sec-WebSocket-Version"])
def test_fields_that_are_there_twice(name: str) -> None:
    error = refused(asked(f"{name}: {VALID[name]}"))
    assert (error.status, error.text) == (400, f"more than one {name}")


def test_origins() -> None:
    own = "https://example.com"
    assert refused(asked(), origins=[own]).status == 403
    assert refused(asked(Origin="https://example.com.evil.org"), origins=[own]).status == 403
    assert refused(asked(Origin="null"), origins=[own]).status == 403
    assert refused(asked(f"Origin: {own}", Origin=own), origins=[own]).status == 400
    for request in (asked(Origin=own), asked(Origin="HTTPS://EXAMPLE.COM")):
        assert answer(request, (), ["https://other.org", own]).subprotocol is None
    assert answer(asked(), (), [own, None]).subprotocol is None
    assert refused(asked(), origins=[]).status == 403
    assert answer(asked(Origin="https://evil.org")).subprotocol is None


def test_subprotocols() -> None:
    def chosen(request: Any, *known: str) -> str | None:
        return answer(request, known).subprotocol

    assert chosen(asked(Sec_WebSocket_Protocol="a, b"), "b", "a") == "b"
    assert chosen(asked("Sec-WebSocket-Protocol: b", Sec_WebSocket_Protocol="a"), "b") == "b"
    assert chosen(asked(Sec_WebSocket_Protocol="a"), "A") is None
    assert chosen(asked(Sec_WebSocket_Protocol="a")) is None
    assert chosen(asked(), "a") is None
    assert ("Sec-WebSocket-Protocol", "a") in answer(
        asked(Sec_WebSocket_Protocol="a"), ["a"]
    ).fields


# ------------------------------------------------------------------------------ client


def replied(*names: str, compression: bool = True, **changed: str | None) -> Agreement:
    """Return what a client makes of a reply that is valid but for *changed*."""
    client = ClientHandshake(names, compression=compression)
    fields = dict(client.fields)
    request = asked(Sec_WebSocket_Key=fields["Sec-WebSocket-Key"])
    reply = {"upgrade": "websocket", "connection": "Upgrade"}
    reply |= {name.lower(): value for name, value in answer(request).fields}
    reply |= {key.replace("_", "-"): value for key, value in changed.items()}  # type: ignore[misc]
    raw = [(k.encode(), v.encode()) for k, v in reply.items() if v is not None]
    return client.check(Headers(raw))


def test_what_a_client_asks_for() -> None:
    fields = dict(ClientHandshake(("a", "b"), compression=True).fields)
    assert fields["Sec-WebSocket-Protocol"] == "a, b"
    assert fields["Sec-WebSocket-Extensions"] == "permessage-deflate; client_max_window_bits"
    assert len(ClientHandshake((), compression=False).fields) == 4


def test_valid_replies() -> None:
    assert replied() == Agreement(None, None)
    assert replied("a", "b", sec_websocket_protocol="b") == Agreement("b", None)
    assert replied(sec_websocket_extensions="permessage-deflate").deflate == shared(12, True)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"upgrade": None}, "Upgrade"),
        ({"upgrade": "h2c"}, "Upgrade"),
        ({"connection": None}, "Connection"),
        ({"connection": "close"}, "Connection"),
        ({"sec_websocket_accept": None}, "Accept"),
        ({"sec_websocket_accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, "Accept"),
        ({"sec_websocket_protocol": "b"}, "subprotocol"),
        ({"sec_websocket_extensions": "x-webkit-deflate-frame"}, "extension"),
        ({"sec_websocket_extensions": "permessage-deflate, permessage-deflate"}, "extension"),
        ({"sec_websocket_extensions": "permessage-deflate; foo"}, "parameters"),
        ({"sec_websocket_extensions": "permessage-deflate", "compression": False}, "extension"),
    ],
)
def test_replies_that_are_wrong(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replied("a", **changed)


# ------------------------------------------------------------------- permessage-deflate


@pytest.mark.parametrize(
    ("offer", "bits", "answered"),
    [
        ("permessage-deflate", 12, ""),
        ("permessage-deflate; client_max_window_bits", 12, ""),
        ("permessage-deflate; client_max_window_bits=10", 12, ""),
        ("permessage-deflate; server_max_window_bits=10", 10, "; server_max_window_bits=10"),
        ('permessage-deflate; server_max_window_bits="9"', 9, "; server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=15", 12, "; server_max_window_bits=12"),
        ("permessage-deflate; server_no_context_takeover", 12, ""),
        ("foo, permessage-deflate; client_no_context_takeover", 12, ""),
        ("permessage-deflate; foo, PerMessage-Deflate", 12, ""),
    ],
)
def test_offers_that_are_accepted(offer: str, bits: int, answered: str) -> None:
    both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert accept([offer]) == (shared(bits, False), both + answered)


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "permessage-bzip2",
        "permessage-deflate; foo",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
    ],
)
def test_offers_that_are_declined(offer: str) -> None:
    assert accept([offer]) is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", None),
        ("permessage-deflate", shared(12, True)),
        ("permessage-deflate; server_no_context_takeover", shared(12, False)),
        ("permessage-deflate; client_max_window_bits=9", shared(9, True)),
        ("permessage-deflate; client_max_window_bits=15", shared(12, True)),
        ("permessage-deflate; client_no_context_takeover", shared(12, True)),
    ],
)
def test_replies_that_a_client_accepts(reply: str, expected: Deflate | None) -> None:
    assert agreed([reply]) == expected


@pytest.mark.parametrize("reply", ["x", "permessage-deflate; client_max_window_bits", "a, b"])
def test_replies_that_a_client_refuses(reply: str) -> None:
    with pytest.raises(ValueError, match=r"extension|parameters"):
        agreed([reply])


def test_every_window_that_can_be_asked_for() -> None:
    data = b"".join(number.to_bytes(2, "big") for number in range(5000)) * 2
    for bits in range(8, 16):
        inflater = Deflate(bits).inflater()
        assert inflater.feed(Deflate(bits).compress(data), 1 << 20) + inflater.finish(0) == data


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("chat", TypeError("a sequence of names, such as ('chat',), not a str")),
        ((b"chat",), TypeError("subprotocols must be of type str, not bytes")),
        (("a b",), ValueError("not the name of a subprotocol: 'a b'")),
        (("a", "b", "a"), ValueError("the same subprotocol is given twice")),
    ],
)
def test_subprotocols_that_are_none(names: Any, error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))):
        checked_subprotocols(names)


async def test_arguments_that_are_refused() -> None:
    async def handler(_: websocket.WebSocket) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="origins must be a sequence of origins, not a str"):
        websocket.listen("127.0.0.1:0", handler, origins="https://a")
    with pytest.raises(TypeError, match="origins must be a sequence of origins, not a str"):
        await websocket.accept(asked(), origins="https://a")
    for name in ("Upgrade", "Sec-WebSocket-Accept"):
        with pytest.raises(ValueError, match=f"{name} is set by the server"):
            await websocket.accept(asked(), headers={name: "x"})
