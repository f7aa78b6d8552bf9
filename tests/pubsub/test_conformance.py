"""Every kind of bus keeps the same promises."""

from __future__ import annotations

from functools import partial

import pytest

from silly import pubsub
from tests.pubsub.conformance import CHECKS, Connect

pytestmark = [pytest.mark.no_engine, pytest.mark.heavy]


@pytest.mark.parametrize("url", ["memory", "redis", "nats"], indirect=True)
async def test_every_check(url: str) -> None:
    connect: Connect = partial(pubsub.connect, url)
    for check in CHECKS:
        await check(connect)
