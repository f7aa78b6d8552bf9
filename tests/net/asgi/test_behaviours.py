"""What applications and clients see: here, with uvicorn, and in the table of the docs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import silly
from silly.net import asgi, tcp
from tests.net.asgi.behaviours import CASES, Application, Seen
from tests.net.http.wire import ANY

pytestmark = pytest.mark.no_engine

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "serve-an-asgi-application.md"


UVICORN = "0.54."  # the version that the table is about


@contextlib.asynccontextmanager
async def silly_serving(app: Application, options: dict[str, Any]) -> AsyncIterator[str]:
    async with await asgi.listen(ANY, app, lifespan="off", **options) as listener:
        yield listener.local_addr


@contextlib.asynccontextmanager
async def uvicorn_serving(app: Application, options: dict[str, Any]) -> AsyncIterator[str]:
    import uvicorn

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, **options
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        await server.startup(sockets=[sock])
        yield "{}:{}".format(*sock.getsockname())
        await server.shutdown(sockets=[sock])


async def observe(serving: Any) -> dict[str, Seen]:
    app, seen = Application(), {}
    by_options = sorted(CASES, key=lambda case: repr(case.options))
    for _, cases in itertools.groupby(by_options, key=lambda case: repr(case.options)):
        same = list(cases)
        async with serving(app, same[0].options) as addr:
            for app.case in same:
                app.events = []
                async with asyncio.timeout(60), tcp.connect(addr) as conn:
                    seen[app.case.situation] = await app.case.observe(conn, app.events)
    return seen


def run(serving: Any) -> dict[str, Seen]:
    with asyncio.Runner(loop_factory=silly.loop_factory) as runner:
        return runner.run(observe(serving))


def test_what_is_seen() -> None:
    assert run(silly_serving) == {case.situation: case.ours for case in CASES}


def test_what_is_seen_with_uvicorn(caplog: pytest.LogCaptureFixture) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    if not uvicorn.__version__.startswith(UVICORN):
        pytest.skip(f"the table is about uvicorn {UVICORN}")
    caplog.set_level(logging.CRITICAL)
    expected = {case.situation: case.uvicorn or case.ours for case in CASES}
    assert run(uvicorn_serving) == expected


def test_the_table_has_a_row_for_each() -> None:
    table = PAGE.read_text().partition("| situation |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    assert {case.situation for case in CASES} == set(rows)
