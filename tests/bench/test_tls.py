"""``silly bench --tls``: handshakes are counted apart from requests."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from silly.bench.encryption import Sessions
from silly.bench.result import schema
from silly.net.tls import Client
from tests.cli.terminal import DEADLINE, SILLY, Echo, environment
from tests.net.tls import certificates

pytestmark = pytest.mark.no_engine

LOCAL = "127.0.0.1:0"
TRUSTING = ("--tls", "--ca", certificates.ca_file())


@pytest.fixture
def addr() -> Iterator[str]:
    cert, key = certificates.pair()
    with Echo(LOCAL, "--tls-cert", cert, "--tls-key", key) as echo:
        yield echo.addr


def bench(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SILLY, "bench", *args], capture_output=True, text=True, check=False, timeout=DEADLINE,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def measured(addr: str, *args: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(bench(addr, "-q", "--json", "-", *args).stdout)
    jsonschema.Draft202012Validator(schema()).validate(result)
    assert result["errors"]["total"] == 0, result["errors"]
    return result


def counts(result: dict[str, Any]) -> tuple[int, int]:
    found = [result["tls"][kind] for kind in ("full", "resumed")]
    full, resumed = (each["count"] if each else 0 for each in found)
    return full, resumed


def test_each_connection_has_one_handshake(addr: str) -> None:
    result = measured(addr, *TRUSTING, "-n", "100", "-c", "5", "--workers", "2", "--alpn", "x")
    assert (result["requests"], result["connect"]["count"]) == (100, 5)
    assert counts(result) == (5, 0)
    assert result["tls"]["version"] == "TLSv1.3"
    assert result["tls"]["cipher"].startswith("TLS_")
    assert result["tls"]["alpn"] is None  # the server has none
    assert result["plan"]["tls"]["ca"] == certificates.ca_file()
    assert measured(addr, "--tls", "--insecure", "-n", "5")["requests"] == 5


@pytest.mark.parametrize(
    ("resume", "expected"), [("0", (40, 0)), ("1", (2, 38)), ("50%", (20, 20))]
)
def test_full_and_resumed_handshakes(addr: str, resume: str, expected: tuple[int, int]) -> None:
    options = ("--mode", "reconnect", "-c", "2", "-n", "40", "--resume", resume)
    result = measured(addr, *TRUSTING, *options)
    full, resumed = counts(result)
    assert full + resumed == result["connect"]["count"] == result["requests"] == 40
    assert abs(full - expected[0]) <= 2  # the two lanes may have different numbers of connections
    assert result["tls"]["version"] == "TLSv1.3"


def test_the_summary_has_them(addr: str) -> None:
    said = bench(addr, "-q", *TRUSTING, "--mode", "reconnect", "-c", "2", "-n", "20").stdout
    assert said.startswith(f"{addr}: closed loop, 2 connections, a new one for each request, TLS\n")
    assert re.search(
        r"^TLS         TLSv1\.3, TLS_\w+\n  full      \d+ handshakes, p50 ", said, re.MULTILINE
    )
    assert re.search(r"^  resumed   \d+ handshakes?, p50 .*, max ", said, re.MULTILINE)


def test_without_tls_there_are_none() -> None:
    with Echo(LOCAL) as echo:
        result = measured(echo.addr, "-n", "5")
        assert result["tls"] is None
        assert result["plan"]["tls"] is None
        echo.stop()


def test_a_handshake_that_fails_is_one_line_with_advice(addr: str) -> None:
    said = bench(addr, "--tls", "-c", "1", code=3).stderr
    assert re.fullmatch(
        rf"silly bench: cannot reach {addr}: certificate verify failed: .* "
        r"\(trust its authority with --ca FILE, or --insecure\)\n",
        said,
    ), said
    other = f"localhost:{addr.rpartition(':')[2]}"
    said = bench(other, *TRUSTING, "--server-name", "other.example", "-c", "1", code=3).stderr
    assert "Hostname mismatch" in said
    assert said.endswith("give that with --server-name, or --insecure)\n")


def test_a_server_without_tls_is_named_as_one() -> None:
    for greeting, why in (
        (b"220 hello\r\n", r"\(try without --tls\)"),
        (b"", "The peer finished before the handshake"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(DEADLINE)

            def serve(listening: socket.socket = listening, greeting: bytes = greeting) -> None:
                # The client resets the connection if it ends with the greeting unread.
                with listening.accept()[0] as sock, contextlib.suppress(ConnectionResetError):
                    sock.sendall(greeting)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1000):
                        pass

            thread = threading.Thread(target=serve)
            thread.start()
            addr = f"127.0.0.1:{listening.getsockname()[1]}"
            said = bench(addr, "--tls", "--insecure", "-c", "1", code=3).stderr
            thread.join()
        assert re.search(why, said), said


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--resume", "1"], "--resume needs --tls"),
        (["--tls", "--udp"], "--udp and --tls: datagrams are not encrypted"),
        (["--ca", "x"], "--ca needs --tls"),
        (["--tls", "--resume", "2"], "'2' is not a share such as 0.5 or 50%"),
        (["--tls", "--ca", "/none.pem"], "cannot read /none.pem: No such file"),
        (["--tls", "--insecure", "--ca", "x"], "--insecure and --ca"),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], why: str) -> None:
    said = bench("127.0.0.1:9999", *options, code=2).stderr
    assert re.fullmatch(r"silly bench: [^\n]*\n", said)
    assert why in said
    unix = bench("unix:/none.sock", "--tls", code=2).stderr
    assert "--server-name must say which name to check" in unix


def test_sessions_of_a_lane() -> None:
    client = Client(verify=False)
    for share, kept in ((0.0, [0]), (1.0, range(8)), (0.5, [0, 2, 4, 6]), (0.25, [0, 4])):
        sessions = Sessions(client, share)
        found = [sessions.next() for _ in range(8)]
        first = found[0]
        assert [number for number, each in enumerate(found) if each is first] == [*kept], share
        assert all(each.context is client.context for each in found)
