"""Refused connections take no tokens, and every admitted connection is counted out."""

from __future__ import annotations

import asyncio
import random

import pytest

from silly.net.gate import Gate
from silly.net.limits import Limits
from silly.testing import run_virtual

pytestmark = pytest.mark.no_engine

GREEDY, HONEST = b"\x0a\0\0\1", b"\x0a\0\0\2"


def test_a_client_at_its_cap_takes_no_tokens_from_others() -> None:
    async def main() -> None:
        limits = Limits(accept_rate=10, max_per_client=2, exempt_networks=())
        gate = Gate(asyncio.get_running_loop(), limits, "here")
        assert gate.enter(GREEDY)
        assert gate.enter(GREEDY)
        for _ in range(60):
            await asyncio.sleep(1)
            assert not any(gate.enter(GREEDY) for _ in range(500))
            assert gate.enter(HONEST)
            gate.leave(HONEST)
        assert gate.refused.counts == {"max_per_client": 30_000}
        gate.close()

    run_virtual(main())


def test_a_full_listener_takes_no_tokens() -> None:
    async def main() -> None:
        limits = Limits(accept_rate=2, max_connections=1, exempt_networks=())
        gate = Gate(asyncio.get_running_loop(), limits, "here")
        assert gate.enter(GREEDY)
        assert not any(gate.enter(HONEST) for _ in range(100))
        gate.leave(GREEDY)
        assert gate.enter(HONEST)  # the second token
        assert gate.refused.counts == {"max_connections": 100}
        gate.close()

    run_virtual(main())


def test_refused_connections_are_not_counted() -> None:
    """In any order of events, only admitted connections are counted or take tokens."""

    async def main(seed: int) -> None:
        chance = random.Random(seed)
        loop = asyncio.get_running_loop()
        limits = Limits(accept_rate=5, max_connections=6, max_per_client=3, exempt_networks=())
        gate = Gate(loop, limits, "here")
        inside: list[bytes] = []
        entered = 0
        began = loop.time()
        for _ in range(500):
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() / 5)
            if inside and chance.random() < 0.4:
                gate.leave(inside.pop(chance.randrange(len(inside))))
            client = bytes([10, 0, 0, chance.randrange(4)])
            fits = len(inside) < 6 and inside.count(client) < 3
            tokens = gate._tokens
            if gate.enter(client):
                assert fits
                inside.append(client)
                entered += 1
            elif not fits:
                assert gate._tokens == tokens
            assert gate.connections == len(inside)
            assert gate._clients == {each: inside.count(each) for each in inside}
        assert entered <= 5 + 5 * (loop.time() - began) + 1
        for client in inside:
            gate.leave(client)
        assert not gate._clients
        assert gate.connections == 0
        gate.close()

    for seed in range(20):
        run_virtual(main(seed))
