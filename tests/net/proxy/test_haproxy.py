"""A real HAProxy sends headers to a listener, and receives ours."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from silly.net import tcp
from silly.net.proxy import ProxyHeader, ProxyInfo
from silly.net.tcp import Conn
from tests.net.proxy.test_connections import ANY, CLIENT, LOOPBACK, Service, until
from tests.net.test_haproxy import dialled
from tests.net.tls import certificates
from tests.workers.harness import running, script

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
    pytest.mark.heavy,
]

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "behind-a-load-balancer.md"
EXAMPLE = ROOT / "examples" / "echo.py"
SETTINGS = """
defaults
    mode tcp
    source 127.0.0.2  # HAProxy's connections may come from the same port as a client's
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"""


@asynccontextmanager
async def haproxy(tmp_path: Path, *sections: str) -> AsyncIterator[None]:
    config = tmp_path / "haproxy.cfg"
    config.write_text("\n".join([SETTINGS, *sections]))
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-f", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def forwarding(port: int, to: str, options: str, bind: str = "") -> str:
    """A frontend on *port* and a server with *options*."""
    return f"""
listen it
    bind 127.0.0.1:{port} {bind}
    server one {to} {options}
"""


async def info_of(service: Service, conn: Conn) -> ProxyInfo:
    """What the header of *conn* said, which came through HAProxy."""
    await conn.write(b"hello\n")
    assert await conn.read(b"\n") == b"hello\n"
    # A health check may have come meanwhile.
    (served,) = [each for each in service.conns if each.remote_addr == conn.local_addr]
    assert served.local_addr == conn.remote_addr
    assert served.proxy is not None
    assert (served.proxy.source, served.proxy.destination) == (conn.local_addr, conn.remote_addr)
    assert served.proxy.via.startswith("127.0.0.2:")
    return served.proxy


@pytest.mark.parametrize(("options", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
async def test_clients_keep_their_addresses(
    options: str, version: int, port: int, tmp_path: Path
) -> None:
    service = Service()
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        async with haproxy(tmp_path, forwarding(port, listener.local_addr, options)):
            for _ in range(5):
                async with await dialled(f"127.0.0.1:{port}") as conn:
                    info = await info_of(service, conn)
                    assert (info.version, info.command, info.tls) == (version, "PROXY", None)
        assert not listener.stats.refused


async def test_the_configuration_in_the_docs(port: int, tmp_path: Path) -> None:
    (section,) = re.findall(r"```\n(backend silly\n.*?)```", PAGE.read_text(), re.DOTALL)
    service = Service()
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        backend = section.replace("10.0.0.7:9999", listener.local_addr)
        front = f"frontend it\n    bind 127.0.0.1:{port}\n    default_backend silly\n"
        async with haproxy(tmp_path, front, backend):
            async with await dialled(f"127.0.0.1:{port}") as conn:
                assert (await info_of(service, conn)).version == 2


async def test_the_echo_server_with_one_changed_line(port: int, tmp_path: Path) -> None:
    """Behind HAProxy, with the client's address in its access log."""
    lines = EXAMPLE.read_text().splitlines()
    (at,) = [number for number, line in enumerate(lines) if "tcp.listen(" in line]
    lines[at] = lines[at].removesuffix(")") + ', proxy_protocol=("127.0.0.0/8",))'
    path = script(tmp_path, "\n".join(lines) + "\n")
    with running("-m", "silly", "--access-log", path, "127.0.0.1:0") as server:
        (addr,) = server.until(r"^Echoing on (\S+)")
        async with haproxy(tmp_path, forwarding(port, addr, "send-proxy-v2")):
            async with await dialled(f"127.0.0.1:{port}") as conn:
                await conn.write(b"hello\n")
                assert await conn.read(b"\n") == b"hello\n"
                ends = f"{conn.local_addr} to {conn.remote_addr}"
            server.until(f"silly.access: {re.escape(ends)}: peer_finished")
        server.stop()


async def test_all_that_haproxy_tells_of_a_client_of_tls(port: int, tmp_path: Path) -> None:
    """Also the name in its certificate; with a checksum."""
    service = Service()
    cert, key = certificates.pair()
    bundle = tmp_path / "server.pem"
    bundle.write_text(Path(cert).read_text() + Path(key).read_text())
    bind = f"ssl crt {bundle} alpn h2,echo/1 verify optional ca-file {certificates.ca_file()}"
    options = (
        "send-proxy-v2-ssl-cn proxy-v2-options "
        "cert-key,cert-sig,ssl-cipher,authority,crc32c,unique-id"
    )
    mine = certificates.authority("first").issue_cert("client.test", common_name="client.test")
    pem = tmp_path / "client.pem"
    mine.private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        section = (
            forwarding(port, listener.local_addr, options, bind) + "    unique-id-format %ci_%cp\n"
        )
        async with haproxy(tmp_path, section):
            await (await dialled(f"127.0.0.1:{port}")).__aexit__(None, None, None)
            for has_certificate in (False, True):
                own = {"cert": str(pem), "key": str(pem)} if has_certificate else {}
                client = certificates.client(alpn=("echo/1",), server_name=certificates.NAME, **own)
                async with tcp.connect(f"127.0.0.1:{port}", tls=client) as conn:
                    info = await info_of(service, conn)
                    assert conn.tls is not None
                    assert (info.authority, info.alpn) == (certificates.NAME, "echo/1")
                    assert info.unique_id == conn.local_addr.replace(":", "_").encode()
                    assert info.tls is not None
                    assert info.tls.is_used
                    assert (info.tls.version, info.tls.cipher) == (
                        conn.tls.version,
                        conn.tls.cipher,
                    )
                    assert info.tls.key_algorithm
                    assert info.tls.signature_algorithm
                    assert info.tls.has_certificate == has_certificate
                    assert info.tls.is_verified == has_certificate
                    assert info.tls.common_name == ("client.test" if has_certificate else None)
        assert "proxy_header" not in listener.stats.refused


@pytest.mark.parametrize("options", ["send-proxy-v2", "send-proxy", "check-send-proxy"])
async def test_health_checks(options: str, port: int, tmp_path: Path) -> None:
    """HAProxy's own connections begin with a header, too, and find a live server."""
    service = Service()
    checked = f"{options} check inter 20ms rise 2 fall 2"
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        section = forwarding(port, listener.local_addr, checked) + "    option tcp-check\n"
        section += "    tcp-check send ping\\n\n    tcp-check expect string ping\n"
        async with haproxy(tmp_path, section):
            await until(lambda: len(service.conns) >= 5)
        assert not listener.stats.refused
    checks = [conn.proxy for conn in service.conns if conn.proxy is not None]
    assert len(checks) == len(service.conns)
    if options == "send-proxy-v2":
        assert {(info.command, info.source) for info in checks} == {("LOCAL", None)}
    for conn in service.conns:
        assert conn.remote_addr.startswith("127.0.0.")


async def test_a_server_without_the_protocol_sees_the_header_as_data(
    port: int, tmp_path: Path
) -> None:
    service = Service()
    async with tcp.listen(ANY, service) as listener:
        async with haproxy(tmp_path, forwarding(port, listener.local_addr, "send-proxy")):
            async with await dialled(f"127.0.0.1:{port}") as conn:
                first = await conn.read(b"\n")
                assert first.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
                assert service.conns[0].proxy is None
                assert service.conns[0].remote_addr.startswith("127.0.0.2:")


async def test_haproxy_believes_ours(port: int, tmp_path: Path) -> None:
    """And passes the client's address on."""
    service = Service()
    async with tcp.listen(ANY, service, proxy_protocol=LOOPBACK) as listener:
        section = forwarding(port, listener.local_addr, "send-proxy-v2", bind="accept-proxy")
        async with haproxy(tmp_path, section):
            addr = f"127.0.0.1:{port}"
            (await dialled(addr)).abort()
            for version, has_checksum in ((1, False), (2, False), (2, True)):
                header = ProxyHeader(CLIENT, authority="a.example", has_checksum=has_checksum)
                async with tcp.connect(addr, proxy_header=header, proxy_version=version) as conn:
                    await conn.write(b"hello\n")
                    assert await conn.read(b"\n") == b"hello\n"
                    assert service.addrs.pop() == (CLIENT, addr)


async def test_unix_sockets(port: int, tmp_path: Path) -> None:
    service = Service()
    addr = f"unix:{tmp_path}/app.sock"
    async with tcp.listen(addr, service, proxy_protocol=("unix",)):
        section = f"""
listen it
    bind 127.0.0.1:{port}
    server one unix@{tmp_path}/app.sock send-proxy-v2
"""
        async with haproxy(tmp_path, section):
            async with await dialled(f"127.0.0.1:{port}") as conn:
                await conn.write(b"hello\n")
                assert await conn.read(b"\n") == b"hello\n"
                assert service.addrs == [(conn.local_addr, conn.remote_addr)]
