"""Certificates change while the server runs: nothing fails, nothing broken comes into force."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest

from silly.net import tcp, tls
from silly.net.conn import Conn
from silly.net.tls import config
from tests.net.tls import certificates
from tests.net.tls.peers import client, client_context

ANY = "127.0.0.1:0"
HANDSHAKES = int(os.environ.get("SILLY_HANDSHAKES", "100"))
EACH = max(HANDSHAKES // 100, 5)  # handshakes until the certificate changes

NAMES = [(certificates.NAME, f"number-{number}.test") for number in range(3)]


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


class Clock:
    """The time that `Server` sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(config, "time", SimpleNamespace(monotonic=lambda: self.now))

    def pass_interval(self) -> None:
        self.now += config.CHECK_INTERVAL


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Files:
    """A certificate and its key, as files that are replaced."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.put(0)

    def put(self, number: int) -> bytes:
        """Put the certificate of that *number* there; return it as DER bytes."""
        self.put_cert(number)
        self.put_key(number)
        return der(number)

    def put_cert(self, number: int) -> None:
        replace(self.cert, Path(certificates.pair(*NAMES[number])[0]).read_bytes())

    def put_key(self, number: int) -> None:
        replace(self.key, Path(certificates.pair(*NAMES[number])[1]).read_bytes())

    def server(self, **options: object) -> tls.Server:
        return tls.Server(self.cert, self.key, **options)  # type: ignore[arg-type]


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "silly.net"]


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def der(number: int) -> bytes:
    pem = Path(certificates.pair(*NAMES[number])[0]).read_text()
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END")] + "-----END CERTIFICATE-----\n")


async def presented(listener: tcp.Listener) -> bytes:
    """The certificate that a new client sees."""
    ours = certificates.client(server_name=certificates.NAME)
    async with tcp.connect(listener.local_addr, tls=ours) as conn:
        await conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"
        assert conn.tls is not None
        assert conn.tls.peer_certificate is not None
        return conn.tls.peer_certificate


@pytest.mark.heavy
async def test_no_handshake_fails_while_certificates_change(tmp_path: Path) -> None:
    files = Files(tmp_path)
    server = files.server()
    seen: set[bytes] = set()
    left = HANDSHAKES

    async def clients() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left % EACH == 0:
                number = left // EACH % 3
                files.put_cert(number)
                server.reload()  # with the other's key, this must not come into force
                files.put_key(number)
                assert server.reload()
            seen.add(await presented(listener))

    async with tcp.listen(ANY, echo, tls=server) as listener:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(clients())
        await listener.close()
        assert listener.stats.refused == {}
        assert sum(listener.stats.handshakes.values()) == HANDSHAKES
    assert seen == {der(number) for number in range(3)}


async def test_changed_files_are_noticed_once_a_minute(tmp_path: Path, clock: Clock) -> None:
    files = Files(tmp_path)
    async with tcp.listen(ANY, echo, tls=files.server()) as listener:
        assert await presented(listener) == der(0)
        files.put(1)
        clock.now += config.CHECK_INTERVAL - 1
        assert await presented(listener) == der(0)
        clock.now += 1
        assert await presented(listener) == der(1)


@pytest.mark.parametrize("breakage", ["key", "garbage", "truncated", "missing", "directory"])
async def test_a_broken_pair_changes_nothing(
    breakage: str, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path)
    server = files.server()
    expires = server.expires_at
    async with tcp.listen(ANY, echo, tls=server) as listener:
        if breakage == "key":
            files.put_key(1)
        elif breakage == "garbage":
            replace(files.cert, b"garbage")
        elif breakage == "truncated":
            replace(files.cert, files.cert.read_bytes()[:300])
        else:
            files.cert.unlink()
            if breakage == "directory":
                files.cert.mkdir()
        for _ in range(3):
            clock.pass_interval()
            assert await presented(listener) == der(0)
            assert not server.reload()
        assert listener.stats.certificate_expires_at == expires
        [record] = logged(caplog)  # once
        assert str(tmp_path) in record.getMessage()
        assert "the previous certificate stays in use" in record.getMessage()
        if breakage == "directory":
            files.cert.rmdir()
        files.put(2)
        clock.pass_interval()
        assert await presented(listener) == der(2)
        assert len(logged(caplog)) == 1
        assert listener.stats.refused == {}


async def test_links_that_are_turned_as_by_certbot(tmp_path: Path, clock: Clock) -> None:
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()
    for number in range(2):
        for name, source in zip(
            ("fullchain", "privkey"), certificates.pair(*NAMES[number]), strict=True
        ):
            shutil.copy(source, archive / f"{name}{number}.pem")

    def turn(name: str, number: int) -> None:
        link = live / f"{name}.pem"
        link.unlink(missing_ok=True)
        link.symlink_to(f"../archive/{name}{number}.pem")

    for name in ("fullchain", "privkey"):
        turn(name, 0)
    server = tls.Server(live / "fullchain.pem", live / "privkey.pem")
    async with tcp.listen(ANY, echo, tls=server) as listener:
        turn("fullchain", 1)
        clock.pass_interval()
        assert await presented(listener) == der(0)  # the key is still the old one
        turn("privkey", 1)
        clock.pass_interval()
        assert await presented(listener) == der(1)


async def test_a_link_that_is_turned_as_by_kubernetes(tmp_path: Path, clock: Clock) -> None:
    def publish(number: int) -> None:
        version = tmp_path / f"..version-{number}"
        version.mkdir()
        for name, source in zip(
            ("tls.crt", "tls.key"), certificates.pair(*NAMES[number]), strict=True
        ):
            shutil.copy(source, version / name)
        new = tmp_path / "..data_tmp"
        new.symlink_to(version.name)
        new.replace(tmp_path / "..data")
        for old in tmp_path.glob("..version-*"):
            if old != version:
                shutil.rmtree(old)

    publish(0)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    server = tls.Server(tmp_path / "tls.crt", tmp_path / "tls.key")
    async with tcp.listen(ANY, echo, tls=server) as listener:
        assert await presented(listener) == der(0)
        publish(1)
        clock.pass_interval()
        assert await presented(listener) == der(1)


async def test_a_revocation_list_comes_into_force_and_ends_sessions(
    tmp_path: Path, clock: Clock
) -> None:
    files, ca = Files(tmp_path), tmp_path / "ca.pem"
    shutil.copy(certificates.ca_file(), ca)
    cert, key = certificates.pair("client.test")
    ours = certificates.client(cert=cert, key=key, server_name=certificates.NAME)
    server = files.server(client_ca=ca, client_cert="required")
    async with tcp.listen(ANY, echo, tls=server) as listener:
        for resumed in (False, True):
            async with tcp.connect(listener.local_addr, tls=ours) as conn:
                await conn.write(b"x\n")
                assert await conn.read(b"\n") == b"x\n"
                assert conn.tls is not None
                assert conn.tls.resumed == resumed
        certificates.ca_with_revoked(ca, cert)
        clock.pass_interval()
        conn = await tcp.connect(listener.local_addr, tls=ours)
        with pytest.raises(ssl.SSLError, match="the peer refused"):
            await conn.read()
        conn.close()


async def test_connections_that_exist_are_not_affected(tmp_path: Path) -> None:
    files = Files(tmp_path)
    server = files.server()
    async with tcp.listen(ANY, echo, tls=server) as listener:
        peer = await client(listener.local_addr, client_context())
        with peer.sock:
            await peer.handshake()
            files.put(1)
            assert server.reload()
            await peer.send(b"x\n")
            assert await peer.read() == b"x\n"


def test_when_the_first_of_the_certificates_expires(tmp_path: Path) -> None:
    files = Files(tmp_path)
    expired = certificates.pair(expired=True)
    server = files.server(sni={"old.test": expired})
    assert server.expires_at == 978307200.0
    assert files.server().expires_at > 2e9  # type: ignore[operator]
