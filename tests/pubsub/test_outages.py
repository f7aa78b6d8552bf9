"""What a bus does when its broker is killed, does not answer, or refuses."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from silly import pubsub
from silly.errors import ConnectionClosed, WriteQueueFull
from tests.net.tls import certificates
from tests.pubsub.brokers import Broker, running
from tests.pubsub.conformance import take, until
from tests.pubsub.outages import run

pytestmark = [pytest.mark.no_engine, pytest.mark.heavy]

FAST = pubsub.Limits(
    min_reconnect_delay=0.001,
    max_reconnect_delay=0.01,
    max_unconfirmed=10,
    max_unconfirmed_bytes=1000,
)
IMPATIENT = replace(FAST, answer_timeout=0.5, subscribe_timeout=1.0)


@pytest.fixture(params=["redis", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with running(request.param, tmp_path) as broker:
        yield broker


async def test_three_kills_under_load(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(broker, 3)
    lines = [each.getMessage() for each in caplog.records if each.name == "silly.pubsub"]
    assert sum("connection lost: " in line for line in lines) >= 15  # 5 buses
    assert sum(": connected again after " in line for line in lines) >= 15
    assert all(line.startswith(f"{broker.url}: ") for line in lines)


async def test_what_is_told_during_an_outage(broker: Broker) -> None:
    async with (
        pubsub.connect(broker.url, limits=FAST) as bus,
        bus.subscribe("x") as before,
    ):
        await bus.publish("x", b"1")
        assert await take(before, 1) == [pubsub.Message("x", b"1", 0)]
        await bus.publish("x", b"2")
        await until(lambda: before.stats.received == 2)
        broker.kill()
        await until(lambda: not bus.is_connected)
        assert "reconnecting" in repr(bus)
        with pytest.raises(pubsub.PublishTimeout, match="was not sent: no connection") as told:
            await bus.publish("x", b"3", timeout=0.01)
        assert not told.value.is_uncertain
        assert isinstance(told.value, TimeoutError)
        assert isinstance(told.value, ConnectionError)
        assert broker.url in str(told.value)
        # Those that wait are bounded, and sent when the broker is back; one that was cancelled
        # is not.
        waiting = [asyncio.create_task(bus.publish("x", b"%d" % n)) for n in range(4, 14)]
        await asyncio.sleep(0)
        with pytest.raises(WriteQueueFull, match="10 messages of 14 bytes wait for the broker"):
            await bus.publish("x", b"14")
        waiting.pop().cancel()
        broker.start()
        during = await bus.subscribe("y").__aenter__()
        await asyncio.gather(*waiting)
        await bus.publish("y", b"hello")
        assert await take(during, 1) == [pubsub.Message("y", b"hello", 0)]
        found = await take(before, 10)
        assert [each.data for each in found] == [b"2"] + [b"%d" % n for n in range(4, 13)]
        # The gap is where it was: after what had arrived.
        assert [each.gap for each in found] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
        assert before.stats.outages == bus.stats.outages == 1
        assert bus.stats.publish_errors == {
            **dict.fromkeys(("disconnected", "refused", "closed"), 0),
            "timeout": 1,
            "full": 1,
        }


async def test_a_broker_that_does_not_answer_is_lost(broker: Broker) -> None:
    async with (
        pubsub.connect(broker.url, limits=IMPATIENT) as bus,
        bus.subscribe("x") as messages,
    ):
        broker.suspend()
        try:
            with pytest.raises(pubsub.PublishError) as told:
                await bus.publish("x", b"1", timeout=0.05)
            assert told.value.is_uncertain
            await until(lambda: bus.stats.outages >= 1)
            with pytest.raises(TimeoutError, match="did not confirm the subscription"):
                async with bus.subscribe("y"):
                    pass
        finally:
            broker.resume()
        await bus.publish("x", b"2")
        found = await take(messages, 1)
        if found[0].data == b"1":  # it was uncertain, and came before or after the outage
            found += await take(messages, 1)
        assert found[-1].data == b"2"
        assert 1 <= sum(each.gap for each in found) <= messages.stats.outages


async def test_heartbeats_find_a_dead_broker(broker: Broker) -> None:
    limits = replace(IMPATIENT, heartbeat=0.05)
    async with pubsub.connect(broker.url, limits=limits) as bus, bus.subscribe("x"):
        broker.suspend()
        try:
            await until(lambda: not bus.is_connected)
        finally:
            broker.resume()
        await until(lambda: bus.is_connected)


async def test_heartbeats_ask_on_both_connections_to_redis(tmp_path: Path) -> None:
    with running("redis", tmp_path) as broker:
        async with (
            Redis(port=broker.port) as redis,
            pubsub.connect(broker.url, limits=replace(FAST, heartbeat=0.01)) as bus,
            asyncio.timeout(30),
        ):
            while [each["cmd"] for each in await redis.client_list()].count("ping") < 2:
                pass
            assert bus.stats.outages == 0


async def test_closing_during_an_outage(broker: Broker) -> None:
    bus = await pubsub.connect(broker.url, limits=FAST)
    broker.kill()
    await until(lambda: not bus.is_connected)
    publishing = asyncio.create_task(bus.publish("x", b""))
    entering = asyncio.create_task(bus.subscribe("x").__aenter__())
    await asyncio.sleep(0)
    await bus.close()
    for each in (publishing, entering):
        with pytest.raises(ConnectionClosed, match="the bus is closed"):
            await each
    assert bus.stats.publish_errors["closed"] == 1


async def test_closing_while_publishing(broker: Broker) -> None:
    bus = await pubsub.connect(broker.url)
    broker.suspend()
    publishing = asyncio.create_task(bus.publish("x", b""))
    await until(lambda: bool(bus._sent))  # type: ignore[attr-defined]
    entering = asyncio.create_task(bus.subscribe("x").__aenter__())
    await asyncio.sleep(0)
    await bus.close()
    with pytest.raises(pubsub.PublishError, match="closed before") as told:
        await publishing
    assert told.value.is_uncertain
    with pytest.raises(ConnectionClosed):
        await entering


async def test_a_broker_that_is_not_there(broker: Broker) -> None:
    broker.kill()
    with pytest.raises(ConnectionRefusedError if "nats" in broker.url else ConnectionError) as told:
        await pubsub.connect(broker.url)
    assert broker.url in str(told.value)


async def test_connecting_has_a_deadline(broker: Broker) -> None:
    broker.suspend()
    secret = broker.url.replace("//", "//user:secret@")
    with pytest.raises(TimeoutError, match="no connection within") as told:
        await pubsub.connect(secret, limits=pubsub.Limits(connect_timeout=0.05))
    assert "secret" not in str(told.value)
    assert broker.url in str(told.value)


async def test_connecting_can_be_cancelled(broker: Broker) -> None:
    for passes in range(0, 12, 3):
        connecting = asyncio.ensure_future(pubsub.connect(broker.url))
        for _ in range(passes):
            await asyncio.sleep(0)
        if connecting.cancel():
            with pytest.raises(asyncio.CancelledError):
                await connecting
        else:  # a few passes of a busy loop were enough
            await (await connecting).close()


# ------------------------------------------------------------------ what brokers refuse


async def test_passwords(tmp_path: Path) -> None:
    options = {"redis": ("--requirepass", "secret"), "nats": ("--user", "u", "--pass", "secret")}
    users = {"redis": "", "nats": "u"}
    for scheme, option in options.items():
        with running(scheme, tmp_path, *option) as broker:
            good = broker.url.replace("//", f"//{users[scheme]}:secret@")
            async with pubsub.connect(good) as bus, bus.subscribe("x") as messages:
                await bus.publish("x", b"1")
                assert (await take(messages, 1))[0].data == b"1"
                assert bus.address == broker.url
            for bad in (broker.url, good.replace("secret", "wrong")):
                with pytest.raises(PermissionError, match=broker.url) as told:
                    await pubsub.connect(bad)
                assert "wrong" not in str(told.value)


async def test_permissions_of_redis(tmp_path: Path) -> None:
    rules = ("on", ">secret", "+@all", "-@dangerous", "resetchannels", "&open.*")
    with running("redis", tmp_path, "--user", "u", *rules) as broker:
        url = broker.url.replace("//", "//u:secret@")
        async with pubsub.connect(url) as bus, bus.subscribe("open.x") as messages:
            await _refuses(bus, messages)


async def test_permissions_of_nats(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text(
        "authorization { users [ { user: u, password: secret, permissions: "
        '{ publish: "open.*", subscribe: "open.*" } } ] }\nmax_payload: 1000\n'
    )
    with running("nats", tmp_path, "--config", "nats.conf") as broker:
        url = broker.url.replace("//", "//u:secret@")
        async with pubsub.connect(url) as bus, bus.subscribe("open.x") as messages:
            await _refuses(bus, messages)
            with pytest.raises(pubsub.PublishError, match="it takes 1000 bytes at most"):
                await bus.publish("open.x", bytes(1001))


async def _refuses(bus: pubsub.Bus, messages: pubsub.Subscription) -> None:
    results = await asyncio.gather(
        bus.publish("open.x", b"1"),
        bus.publish("Secret.x", b"2"),
        bus.publish("open.x", b"3"),
        return_exceptions=True,
    )
    assert isinstance(results[1], pubsub.PublishError)
    assert "the broker refused the message" in str(results[1])
    assert not results[1].is_uncertain
    assert results[0] is results[2] is None
    assert [each.data for each in await take(messages, 2)] == [b"1", b"3"]
    for pattern in ("Secret.x", "Secret.*"):
        with pytest.raises(PermissionError, match=f"refused to subscribe to '{pattern}'"):
            async with bus.subscribe(pattern):
                pass
    assert bus.stats.subscriptions == 1
    assert bus.stats.outages == 0
    assert bus.stats.publish_errors["refused"] == 1


# ------------------------------------------------------------------------------- TLS


async def test_tls(tmp_path: Path) -> None:
    cert, key = certificates.pair("localhost")
    ca = certificates.ca_file()
    trusted = certificates.client()
    options = {
        "redis": (
            *("--tls-port", "{port}", "--port", "0", "--tls-auth-clients", "no"),
            *("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca),
        ),
        "nats": ("--tls", "--tlscert", cert, "--tlskey", key),
    }
    for scheme, option in options.items():
        with running(scheme, tmp_path, *option) as broker:
            secure = broker.url.replace("redis:", "rediss:").replace("127.0.0.1", "localhost")
            async with pubsub.connect(secure, tls=trusted) as bus, bus.subscribe("x") as messages:
                await bus.publish("x", b"1")
                assert (await take(messages, 1))[0].data == b"1"
            if scheme == "redis":  # redis-py's own options
                async with pubsub.connect(f"{secure}?ssl_ca_certs={ca}") as bus:
                    await bus.publish("x", b"1")
                with pytest.raises(ConnectionError, match=r"(?i)certificate|hostname"):
                    await pubsub.connect(f"rediss://127.0.0.1:{broker.port}?ssl_ca_certs={ca}")
            for untrusting in (secure, secure.replace("nats:", "tls:")):
                with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)certificate"):
                    await pubsub.connect(untrusting)
    with running("nats", tmp_path) as broker:
        secret = broker.url.replace("//", "//user:secret@")
        for url, asked in ((secret, trusted), (secret.replace("nats:", "tls:"), None)):
            with pytest.raises(ssl.SSLError, match="the server does not encrypt") as told:
                await pubsub.connect(url, tls=asked)
            assert "secret" not in str(told.value)
