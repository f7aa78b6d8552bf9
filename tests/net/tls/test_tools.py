"""Other people's TLS: openssl, curl, Go's client and testssl.sh."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from silly.net import tcp, tls
from silly.net.conn import Conn
from tests.net.tls import certificates

ANY = "127.0.0.1:0"
VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}
BY_VERSION = pytest.mark.parametrize("version", VERSIONS)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class Seen:
    """Answers one line of each connection, and remembers what was negotiated."""

    def __init__(self) -> None:
        self.infos: list[tls.TLSInfo | None] = []

    async def handler(self, conn: Conn) -> None:
        self.infos.append(conn.tls)
        async for line in conn:
            if line == b"quit\n":
                await conn.write(b"bye\n")
                return
            await conn.write(line.upper())

    @property
    def last(self) -> tls.TLSInfo:
        assert self.infos[-1] is not None
        return self.infos[-1]


async def run(
    *command: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> str:
    """Run *command*; return its standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        # Without a pipe for nothing: uvloop cannot write to one whose program has ended.
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate(stdin or None)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return output.decode(errors="replace")


async def s_client(listener: tcp.Listener, *options: str, stdin: bytes = b"quit\n") -> str:
    command = ["openssl", "s_client", "-connect", listener.local_addr, "-ign_eof"]
    return await run(*command, "-CAfile", certificates.ca_file(), *options, stdin=stdin)


@needs_openssl
@BY_VERSION
async def test_s_client(version: str, tmp_path: Path) -> None:
    seen = Seen()
    server = certificates.server(alpn=("chat/2", "chat/1"))
    async with tcp.listen(ANY, seen.handler, tls=server) as listener:
        options = [version, "-servername", certificates.NAME, "-alpn", "chat/1"]
        ticket = str(tmp_path / "ticket")
        output = await s_client(listener, *options, "-sess_out", ticket, stdin=b"hello\nquit\n")
        assert "HELLO\n" in output
        assert "Verify return code: 0 (ok)" in output
        assert "ALPN protocol: chat/1" in output
        assert seen.last.version == VERSIONS[version]
        assert (seen.last.server_name, seen.last.alpn) == (certificates.NAME, "chat/1")
        assert not seen.last.resumed
        output = await s_client(listener, *options, "-sess_in", ticket)
        assert f"Reused, {VERSIONS[version]}" in output
        assert seen.last.resumed
        await listener.close()
        assert listener.stats.refused == {}
        assert listener.stats.handler_errors == 0


@needs_openssl
async def test_s_client_asks_for_names() -> None:
    seen = Seen()
    pairs = {name: certificates.pair(name) for name in ("b.test", "*.b.test")}
    async with tcp.listen(ANY, seen.handler, tls=certificates.server(sni=pairs)) as listener:
        for name, subject in (
            ("b.test", "b.test"),
            ("B.TEST", "b.test"),
            ("x.b.test", "*.b.test"),
            ("x.x.b.test", certificates.NAME),
            ("unknown.test", certificates.NAME),
        ):
            output = await s_client(listener, "-servername", name)
            assert seen.last.server_name == name
            found = re.search(r"-----BEGIN CERT.*END CERTIFICATE-----", output, re.DOTALL)
            assert found is not None
            text = await run(
                *("openssl", "x509", "-noout", "-ext", "subjectAltName"),
                stdin=found.group().encode(),
            )
            assert f"DNS:{subject}" in text
        await s_client(listener, "-noservername")
        assert seen.last.server_name is None


@needs_openssl
@BY_VERSION
async def test_s_client_has_a_certificate(version: str, tmp_path: Path) -> None:
    seen = Seen()
    revoked = certificates.pair("revoked.test")
    ca = certificates.ca_with_revoked(tmp_path / "ca.pem", revoked[0])
    server = certificates.server(client_ca=ca, client_cert="required")
    async with tcp.listen(ANY, seen.handler, tls=server) as listener:
        cert, key = certificates.pair("client.test")
        ticket = str(tmp_path / "ticket")
        for resumed, option in enumerate(("-sess_out", "-sess_in")):
            output = await s_client(listener, version, "-cert", cert, "-key", key, option, ticket)
            assert "bye\n" in output
            assert seen.last.peer_certificate is not None
            assert seen.last.resumed == bool(resumed)
        for cert, key in (revoked, certificates.pair(ca="second")):
            output = await s_client(listener, version, "-cert", cert, "-key", key)
            assert "bye\n" not in output
            assert "alert" in output
        output = await s_client(listener, version)
        assert "bye\n" not in output
        assert len(seen.infos) == 2
        assert listener.stats.refused == {"tls_certificate": 3}


async def start_s_client(
    listener: tcp.Listener, version: str
) -> tuple[asyncio.subprocess.Process, asyncio.StreamWriter, asyncio.StreamReader]:
    """Start it, and wait until its handshake is over."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", listener.local_addr, version),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readuntil(b"---\n")
    return process, process.stdin, process.stdout


@needs_openssl
async def test_s_client_cannot_renegotiate() -> None:
    seen = Seen()
    async with tcp.listen(ANY, seen.handler, tls=certificates.server()) as listener:
        process, stdin, stdout = await start_s_client(listener, "-tls1_2")
        stdin.write(b"R\n")
        output = await stdout.read()
        await process.wait()
        assert b"RENEGOTIATING" in output
        assert b"no renegotiation" in output
        await listener.close()
        assert listener.stats.handler_errors == 0


@needs_openssl
async def test_s_client_updates_its_keys() -> None:
    seen = Seen()
    async with tcp.listen(ANY, seen.handler, tls=certificates.server()) as listener:
        process, stdin, stdout = await start_s_client(listener, "-tls1_3")
        for command, number in ((b"K", 1), (b"k", 2), (b"K", 3)):
            stdin.write(command + b"\n")
            await stdout.readuntil(b"KEYUPDATE\n")
            stdin.write(b"line %d\n" % number)
            await stdout.readuntil(b"LINE %d\n" % number)
        stdin.write(b"quit\n")
        assert b"bye\n" in await stdout.read()
        await process.wait()


async def start_s_server(port: int, *options: str) -> asyncio.subprocess.Process:
    cert, key = certificates.pair()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key]
    process = await asyncio.create_subprocess_exec(
        *(*command, "-rev", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    await process.stdout.readuntil(b"ACCEPT\n")
    return process


async def stop(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


@needs_openssl
@BY_VERSION
async def test_s_server(version: str, port: int) -> None:
    server = await start_s_server(port, version, "-alpn", "chat/1")
    try:
        client = certificates.client(alpn=("chat/2", "chat/1"), server_name=certificates.NAME)
        for resumed in (False, True):
            async with tcp.connect(f"127.0.0.1:{port}", tls=client) as conn:
                await conn.write(b"hello\n")
                assert await conn.read(b"\n") == b"olleh\n"
                assert conn.tls is not None
                assert (conn.tls.version, conn.tls.alpn) == (VERSIONS[version], "chat/1")
                assert conn.tls.resumed == resumed
    finally:
        await stop(server)


@needs_openssl
async def test_s_server_asks_for_a_certificate(port: int) -> None:
    server = await start_s_server(
        port, "-Verify", "1", "-verify_return_error", "-CAfile", certificates.ca_file()
    )
    try:
        cert, key = certificates.pair("client.test")
        options: dict[str, Any] = {"server_name": certificates.NAME}
        good = certificates.client(cert=cert, key=key, **options)
        async with tcp.connect(f"127.0.0.1:{port}", tls=good) as conn:
            await conn.write(b"hello\n")
            assert await conn.read(b"\n") == b"olleh\n"
        conn = await tcp.connect(f"127.0.0.1:{port}", tls=certificates.client(**options))
        with pytest.raises(OSError, match="certificate required"):
            await conn.read()
        conn.abort()
    finally:
        await stop(server)


async def page(conn: Conn) -> None:
    request = [line async for line in _head(conn)]
    body = request[0] if request else b""
    await conn.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def _head(conn: Conn) -> Any:
    async for line in conn:
        if not line.strip():
            return
        yield line


@needs_curl
async def test_curl() -> None:
    async with tcp.listen(ANY, page, tls=certificates.server()) as listener:
        port = listener.local_addr.rpartition(":")[2]
        curl = ["curl", "-sS", "--max-time", "30", "--noproxy", "*", "--http1.1"]
        trusting = [*curl, "--cacert", certificates.ca_file()]
        assert await run(*trusting, f"https://localhost:{port}/x") == "GET /x HTTP/1.1\r\n"
        refused = await run(*curl, f"https://localhost:{port}/x")
        assert "unable to get local issuer certificate" in refused
        clear = await run(*curl, "-w", "%{http_code}", f"http://localhost:{port}/x")
        assert clear == "This port speaks TLS: use https://\n400"
        await listener.close()
        assert listener.stats.refused == {"tls_alert": 1, "not_tls": 1}


# Seconds that testssl.sh waits for answers that never come.
WAITS = ("MAX_WAITSOCK", "CCS_MAX_WAITSOCK", "HEARTBLEED_MAX_WAITSOCK")


# Sends two lines on each of three connections; the later ones continue the session.
GO_CLIENT = """
package main

import ("bufio"; "crypto/tls"; "crypto/x509"; "fmt"; "os")

func main() {
    pem, _ := os.ReadFile(os.Args[2])
    roots := x509.NewCertPool()
    roots.AppendCertsFromPEM(pem)
    config := &tls.Config{RootCAs: roots, ServerName: os.Args[3], NextProtos: []string{"echo"},
        ClientSessionCache: tls.NewLRUClientSessionCache(1)}
    if len(os.Args) > 4 { config.MaxVersion = tls.VersionTLS12 }
    for i := 0; i < 3; i++ {
        conn, err := tls.Dial("tcp", os.Args[1], config)
        if err != nil { fmt.Println(err); os.Exit(1) }
        lines := bufio.NewScanner(conn)
        for _, line := range []string{"one", "two"} {
            fmt.Fprintln(conn, line)
            lines.Scan()
            fmt.Print(lines.Text(), " ")
        }
        state := conn.ConnectionState()
        fmt.Println(state.Version == tls.VersionTLS13, state.NegotiatedProtocol, state.DidResume)
        conn.Close()
    }
}
"""


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("go")
    (directory / "client.go").write_text(GO_CLIENT)
    command = ["go", "build", "-o", "client", "client.go"]
    environ = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0", "GOCACHE": f"{directory}/c"}
    subprocess.run(command, cwd=directory, env=environ, check=True)
    return str(directory / "client")


@pytest.mark.heavy
@pytest.mark.no_engine
@pytest.mark.skipif(shutil.which("go") is None, reason="needs go")
async def test_go(go_client: str) -> None:
    server = certificates.server(alpn=("echo",))
    async with tcp.listen(ANY, Seen().handler, tls=server) as listener:
        arguments = (go_client, listener.local_addr, certificates.ca_file(), certificates.NAME)
        assert await run(*arguments) == (
            "ONE TWO true echo false\n" + 2 * "ONE TWO true echo true\n"
        )
        assert (await run(*arguments, "1.2")).splitlines()[-1] == "ONE TWO false echo true"
        wrong = await run(*arguments[:3], "wrong.test")
        assert "certificate is valid for" in wrong
        assert listener.stats.handler_errors == 0


@pytest.mark.heavy
@pytest.mark.no_engine
@pytest.mark.skipif(shutil.which("testssl") is None, reason="needs testssl.sh")
def test_testssl_finds_nothing(tmp_path: Path) -> None:
    """Nothing above "LOW", but that the test's certificate names no revocation service."""
    found = tmp_path / "found.json"
    server = tls.Server(*certificates.pair("localhost", days=90))
    limits = tcp.Limits(handshake_timeout=1, first_byte_timeout=1)

    async def main() -> None:
        async with tcp.listen(ANY, page, tls=server, limits=limits) as listener:
            port = listener.local_addr.rpartition(":")[2]
            await run(
                *("testssl", "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1"),
                *("--protocols", "--std", "--server-defaults", "--vulnerable", "--fast"),
                *("--add-ca", certificates.ca_file(), "--severity", "LOW", "--nodns", "min"),
                *("--jsonfile", str(found), f"localhost:{port}"),
                environment=dict.fromkeys(WAITS, "1"),
            )

    asyncio.run(main())
    findings = {each["id"]: each for each in json.loads(found.read_text())}
    assert findings
    bad = {
        name: each["finding"]
        for name, each in findings.items()
        if each["severity"] not in ("OK", "INFO", "LOW", "WARN")  # WARN: could not be tested
    }
    assert bad.keys() <= {"cert_revocation"}, bad
