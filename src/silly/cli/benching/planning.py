"""From the options of ``silly bench`` that were given to the plan of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from silly.bench.encryption import Encryption
from silly.bench.http_request import SUCCESS, HttpRequest
from silly.bench.plan import Plan
from silly.bench.websocket_target import WebSocketTarget
from silly.cli.benching.options import DEFAULTS, UDP_TIMEOUT
from silly.cli.command import Failure
from silly.cli.tls import CLIENT, check_name, client_of
from silly.net import addr as addresses

__all__ = ["planned", "was_given"]


def planned(addr: str, options: dict[str, Any]) -> Plan:
    """Build the plan from the options. Raises Failure."""
    target = _target(addr, options)
    send, expect = options.pop("send"), options.pop("expect")
    if len(send) != len(expect):
        raise Failure(
            f"--send and --expect come in pairs: got {len(send)} --send and {len(expect)} --expect"
        )
    given = {name for name in ("sizes", "framing") if was_given(name)}
    own = next((name for name in ("template", "data") if options[name] is not None), None)
    if send and given:
        raise Failure(f"--send and {_flag(given.pop())}: requests are sent as they are")
    if own and "sizes" in given:
        raise Failure(f"--{own} and --size: give one of them")
    if target is not None:
        addr = target.addr
        options["tls"] |= target.is_encrypted
    options["tls"] = _encryption(addr, options)
    if options["data"] is not None:
        try:
            options["data"] = Path(options["data"]).read_bytes()
        except OSError as error:
            raise Failure(f"--data: cannot read {options['data']!r}: {error.strerror}") from None
    if options["connections"] is None:
        stages = options.get("stages") and options.get("rate") is None
        options["connections"] = 1 if stages else DEFAULTS["connections"]
    if options["udp"] and not was_given("timeout"):
        options["timeout"] = UDP_TIMEOUT
    if options["busy_poll"] is None:
        options["busy_poll"] = options.get("rate") is not None
    try:
        options["pairs"] = tuple(zip(send, expect, strict=True))
        plan = _plan_of(addr, target, options)
        plan.check()
        plan.factory()
    except ValueError as error:
        raise Failure(str(error)) from None
    return plan


def _plan_of(addr: str, target: HttpRequest | WebSocketTarget | None, options: Any) -> Plan:
    """Return the plan, not checked yet. Raises ValueError."""
    if isinstance(target, WebSocketTarget):
        del options["framing"]
        return Plan.of_websocket(target, **options)
    return Plan(addr, **options) if target is None else Plan.of_http(target, **options)


_HTTP_ONLY: Final = ("method", "body", "expect_status", "expect_body", "expect_match")
_HTTP: Final = ("headers", *_HTTP_ONLY)
_WEBSOCKET: Final = ("is_binary", "subprotocols", "compresses")
_BYTES_ONLY: Final = ("framing", "sizes", "seed")


def _target(addr: str, options: dict[str, Any]) -> HttpRequest | WebSocketTarget | None:
    """Take the options of HTTP and WebSockets out of *options*; return what they are for.

    Raises:
        Failure: they are for something else.
    """
    values = {name: options.pop(name) for name in (*_HTTP, *_WEBSOCKET)}
    is_http = addr.lower().startswith(("http://", "https://"))
    is_websocket = addr.lower().startswith(("ws://", "wss://"))
    for names, is_wanted, scheme in (
        (_HTTP, is_http or is_websocket, "http"),
        (_HTTP_ONLY, not is_websocket, "http"),
        (_WEBSOCKET, is_websocket, "ws"),
    ):
        wrong = None if is_wanted else next((name for name in names if was_given(name)), None)
        if wrong is not None:
            place = "HOST:PORT" if is_http or is_websocket else addr
            raise Failure(f"{_flag(wrong)} needs a URL such as {scheme}://{place}/")
    if is_http:
        return _http(addr, values)
    return _websocket(addr, values) if is_websocket else None


def _websocket(url: str, values: dict[str, Any]) -> WebSocketTarget:
    """Return the WebSocket server at *url*, of the options *values*. Raises Failure."""
    if was_given("framing"):
        raise Failure("--framing and a URL: a WebSocket has messages")
    target = WebSocketTarget(
        url, values["is_binary"], values["headers"], values["subprotocols"], values["compresses"]
    )
    try:
        target.check()
    except (ImportError, ValueError) as error:  # ImportError: httptools is missing
        raise Failure(str(error)) from None
    return target


def _http(addr: str, values: dict[str, Any]) -> HttpRequest:
    """Return the request to the URL *addr*, of the options *values*. Raises Failure."""
    if wrong := next((name for name in _BYTES_ONLY if was_given(name)), None):
        raise Failure(f"{_flag(wrong)} and a URL: give a --body")
    http = HttpRequest(
        addr,
        method=values["method"] or ("GET" if values["body"] is None else "POST"),
        headers=values["headers"],
        body=values["body"] or b"",
        statuses=values["expect_status"] or SUCCESS,
        expected=values["expect_body"],
        pattern=values["expect_match"],
    )
    try:
        http.check()
    except (ImportError, ValueError) as error:  # ImportError: httptools is missing
        raise Failure(str(error)) from None
    return http


def _encryption(addr: str, options: dict[str, Any]) -> Encryption | None:
    """Take the options of TLS out of *options*. Raises Failure."""
    given = {each.name: options.pop(each.name) for each in CLIENT}
    resume = options.pop("resume")
    try:
        client = client_of(given)
        check_name(client, addresses.parse(addr, "ADDR"))
    except ValueError as error:
        raise Failure(str(error)) from None
    if client is None:
        if was_given("resume"):
            raise Failure("--resume needs --tls")
        return None
    del given["tls"]
    return Encryption(**given, resume=resume)


def was_given(name: str) -> bool:
    """Return whether the command line has a value for the option *name*."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _flag(name: str) -> str:
    names = {
        "sizes": "size",
        "headers": "header",
        "is_binary": "binary",
        "subprotocols": "subprotocol",
        "compresses": "compression",
    }
    return f"--{names.get(name, name).replace('_', '-')}"
