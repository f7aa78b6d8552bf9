"""``silly echo`` and ``silly connect`` with TLS, and other programs against them."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from silly.cli.connecting.starttls import start_tls
from silly.cli.echoing import tls as echoing_tls
from silly.cli.tls import _date, described_chain
from silly.net import tcp, tls
from silly.net.tls.x509 import fingerprint
from tests.cli.terminal import DEADLINE, Echo, Terminal, misused, python_path, silly, started
from tests.net.tls import certificates

pytestmark = pytest.mark.no_engine

LOCAL = "127.0.0.1:0"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def fingerprint_of(cert: str) -> str:
    return fingerprint(ssl.PEM_cert_to_DER_cert(Path(cert).read_text()))


# -------------------------------------------------------------------------- silly echo


def test_a_throw_away_certificate_can_be_checked() -> None:
    with Echo(LOCAL, "--tls") as echo:
        of_server = echo.listening["tls"]
        done = silly("connect", echo.addr, "--tls", "--ca", of_server["ca"], data=b"hello\n")
        assert done.stdout == b"hello\n"
        told = done.stderr.decode()
        summary = echo.stop()
    assert re.match(r"TLSv1\.3, TLS_AES_[_A-Z0-9]+\ncertificate \(verified\)\n", told)
    assert "subject      O=silly echo, OU=throw-away\n" in told
    assert "names        localhost, 127.0.0.1, ::1" in told
    assert f"fingerprint  {of_server['fingerprint']}\n" in told
    assert summary["handshakes"] == {"TLSv1.3": 1}
    assert not Path(of_server["ca"]).exists()  # it was thrown away


def test_what_echo_prints_is_what_to_type(tmp_path: Path) -> None:
    with started("echo", f"unix:{tmp_path}/x.sock", LOCAL, "--tls") as process:
        lines = iter(lambda: process.stdout.readline().decode(), "")
        assert next(lines).endswith("x.sock (TLS)\n")
        found = re.fullmatch(r"Listening on (\S+) \(TLS\)\n", next(lines))
        assert found
        assert re.fullmatch(r"Certificate ([0-9A-F]{2}:){31}[0-9A-F]{2} \(SHA-256\)\n", next(lines))
        next(lines)
        for _ in range(2):
            command = next(lines).split()
            if command[0] != "silly":
                command = next(lines).split()
            done = silly(*command[1:], data=b"hello\n")
            assert done.stdout == b"hello\n"


@needs("openssl")
def test_echo_answers_openssl() -> None:
    with Echo(LOCAL, "--tls") as echo:
        command = ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile",
                   echo.listening["tls"]["ca"], "-connect", echo.addr]  # fmt: skip
        with started(*command[1:], command=command[:1]) as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"hello\n"
        echo.stop()


def test_a_certificate_from_files() -> None:
    cert, key = certificates.pair()
    with Echo(LOCAL, "--tls-cert", cert, "--tls-key", key) as echo:
        assert echo.listening["tls"] == {
            "fingerprint": fingerprint_of(cert), "cert": cert, "ca": None,
        }  # fmt: skip
        assert silly(
            "connect", echo.addr, "--tls", "--ca", certificates.ca_file(), data=b"x\n"
        ).stdout == b"x\n"  # fmt: skip
        echo.stop()


def test_lines_say_that_it_is_encrypted() -> None:
    with started("echo", LOCAL, "--tls-cert", combined()) as process:
        addr = process.stdout.readline().decode().split()[2]
        process.stdout.readline()
        silly("connect", addr, "--tls", "--insecure")
        assert re.search(rb" open 127\.0\.0\.1:\d+ \(TLSv1\.3\)\n", process.stdout.readline())


def combined() -> str:
    """A file with the certificate and the key."""
    cert, key = certificates.pair()
    both = Path(cert).with_name("both.pem")
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    return str(both)


def test_a_live_view_with_tls() -> None:
    with Terminal("echo", LOCAL, "--tls") as terminal:
        terminal.wait_for(r"openssl s_client -quiet -connect 127\.0\.0\.1:\d+")
        terminal.wait_for(r"silly echo --lines --tls")
        terminal.wait_for(r"127\.0\.0\.1:\d+ \(TLS\)")
        terminal.type("\x03")
        assert terminal.end() == 0


def test_echo_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    cert, key = certificates.pair()
    (tmp_path / "text").write_text("no certificate\n")
    for arguments, said in (
        (("--tls", "--tls-cert", cert), "--tls and --tls-cert: --tls makes a certificate"),
        (("--tls-key", key), "--tls-key needs --tls-cert, the file with the certificate"),
        (("--tls-cert", f"{tmp_path}/none"), f"cannot read {tmp_path}/none: No such file"),
        (("--tls-cert", f"{tmp_path}/text"), f"{tmp_path}/text: no certificate, or no private key"),
        (("--tls-cert", cert), f"{cert}: no certificate, or no private key, in PEM format"),
        (("--tls-cert", cert, "--tls-key", certificates.pair(ca="second")[1]),
         "the private key does not belong to the certificate"),
        (("--tls", "--udp"), "--udp and --tls: datagrams are not encrypted"),
    ):  # fmt: skip
        assert said in misused("echo", LOCAL, *arguments)


def test_without_trustme_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ModuleNotFoundError(name='trustme')\n")
    with started("echo", LOCAL, "--tls", PYTHONPATH=python_path(tmp_path)) as process:
        assert process.wait() == 2
        said = process.stderr.read().decode()
    assert re.fullmatch(r"silly echo: --tls needs trustme: \S+ -m pip install trustme.*\n", said)


# ----------------------------------------------------------------------- silly connect


@contextlib.contextmanager
def server(
    cert: str, key: str, *, ca: str | None = None, alpn: str | None = None, tls12: bool = False
) -> Iterator[str]:
    """A server of Python's ssl module that echoes what each client sends; yield its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)

        def serve() -> None:
            with contextlib.suppress(OSError):  # shut down
                while True:
                    sock, _ = listening.accept()
                    with sock, contextlib.suppress(OSError):
                        sock.settimeout(DEADLINE)
                        with context.wrap_socket(sock, server_side=True) as conn:
                            while data := conn.recv(100):
                                conn.sendall(data)
                            conn.unwrap()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"localhost:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RD)
            thread.join()


CHECKED = ("--tls", "--ca", certificates.ca_file())


def test_what_was_negotiated_is_shown() -> None:
    with server(*certificates.pair(), alpn="chat/2") as addr:
        done = silly("connect", addr, *CHECKED, "--alpn", "chat/1", "--alpn", "chat/2", data=b"x")
    assert done.stdout == b"x"
    assert done.stderr.startswith(
        b"TLSv1.3, TLS_AES_256_GCM_SHA384, ALPN chat/2\ncertificate (verified)\n  subject  "
    )
    assert fingerprint_of(certificates.pair()[0]).encode() in done.stderr


def test_all_certificates_of_the_chain_are_shown(tmp_path: Path) -> None:
    between = certificates.authority("first").create_child_ca()
    issued = between.issue_cert("localhost")
    (tmp_path / "cert").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (tmp_path / "key").write_bytes(issued.private_key_pem.bytes())
    with server(f"{tmp_path}/cert", f"{tmp_path}/key", tls12=True) as addr:
        said = silly("connect", addr, *CHECKED).stderr.decode()
    assert said.startswith("TLSv1.2, ECDHE-")
    [own, next_one] = re.findall(r"^(?:certificate \(verified\)|next certificate of its chain)$"
                                 r"\n  subject +(.*)", said, re.MULTILINE)  # fmt: skip
    assert own.startswith("O=trustme")
    assert next_one != own
    assert len(re.findall("  fingerprint  ", said)) == 2


def test_another_name_can_be_demanded() -> None:
    with server(*certificates.pair("b.example")) as addr:
        silly("connect", addr, *CHECKED, "--server-name", "b.example")


def test_a_client_certificate() -> None:
    cert, key = certificates.pair("client.test")
    with server(*certificates.pair(), ca=certificates.ca_file()) as addr:
        own = ("--cert", cert, "--key", key)
        assert silly("connect", addr, *CHECKED, *own, data=b"x").stdout == b"x"
        said = refused_to_connect(addr, *CHECKED)
        assert said.endswith(" (it wants a client's certificate: --cert FILE --key FILE)")


def refused_to_connect(addr: str, *arguments: str) -> str:
    return refusal(addr, *arguments)[-1]


def refusal(addr: str, *arguments: str) -> list[str]:
    return silly("connect", addr, *arguments, code=1).stderr.decode().splitlines()


def test_a_certificate_that_is_refused_is_shown() -> None:
    with server(*certificates.pair("b.example")) as addr:
        *shown, error = refusal(addr, *CHECKED)
    assert shown[0] == "certificate (NOT verified)"
    assert "  names        b.example" in shown
    assert "certificate verify failed: Hostname mismatch" in error


def test_insecure_says_so() -> None:
    with server(*self_signed()) as addr:
        done = silly("connect", addr, "--tls", "--insecure", data=b"x")
    assert done.stdout == b"x"
    assert b"certificate (NOT verified)\n" in done.stderr


def self_signed() -> tuple[str, str]:
    cert, key = (str(Path(certificates.pair()[0]).with_name(f"self.{name}")) for name in "ck")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
               "-out", cert, "-keyout", key]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def expired() -> tuple[str, str]:
    day = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    issued = certificates.authority("first").issue_cert("localhost", not_before=day, not_after=day)
    cert, key = (Path(certificates.pair()[0]).with_name(f"expired.{name}") for name in "ck")
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    return str(cert), str(key)


def test_a_certificate_that_is_not_valid_is_refused_with_advice() -> None:
    insecure = "or --insecure)"
    for pair, arguments, why, what in (
        (certificates.pair("b.example"), CHECKED, "Hostname mismatch", "--server-name, "),
        (certificates.pair(), ("--tls",), "unable to get local issuer", "with --ca FILE, "),
        (certificates.pair(ca="second"), CHECKED, "unable to get local issuer", "--ca FILE, "),
        (self_signed(), ("--tls",), "self-signed certificate", "trust it with --ca FILE, "),
        (expired(), CHECKED, "certificate has expired", ""),
    ):
        with server(*pair) as addr:
            said = refused_to_connect(addr, *arguments)
        assert said.startswith(f"silly connect: {addr}: certificate verify failed: {why}"), said
        assert said.endswith(what + insecure) or not what, said
        assert "--insecure" in said


def test_a_server_without_tls_is_named_as_one() -> None:
    with Echo(LOCAL) as echo:
        said = refused_to_connect(echo.addr, "--tls", "--timeout", "500ms")
        assert said.endswith("Connected, but no TLS within 0.5 seconds"), said
        echo.stop()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with listening.accept()[0] as sock:
                sock.sendall(b"220 mail.example ESMTP\r\n")
                while sock.recv(1000):
                    pass

        thread = threading.Thread(target=greet)
        thread.start()
        said = refused_to_connect(f"127.0.0.1:{listening.getsockname()[1]}", "--tls")
        thread.join()
    assert said.endswith("the peer does not speak TLS (try without --tls)"), said


DIALOGUES: dict[str, list[tuple[bytes, bytes]]] = {
    "smtp": [
        (b"", b"220-mail.example\r\n220 ESMTP\r\n"),
        (b"EHLO localhost\r\n", b"250-mail.example\r\n250-STARTTLS\r\n250 HELP\r\n"),
        (b"STARTTLS\r\n", b"220 go ahead\r\n"),
    ],
    "imap": [(b"", b"* OK ready\r\n"), (b"a STARTTLS\r\n", b"* X\r\na OK begin\r\n")],
    "pop3": [(b"", b"+OK\r\n"), (b"STLS\r\n", b"+OK begin\r\n")],
    "ftp": [(b"", b"220 ftp\r\n"), (b"AUTH TLS\r\n", b"234 begin\r\n")],
    "postgres": [(b"\0\0\0\x08\x04\xd2\x16\x2f", b"S")],
}


@contextlib.contextmanager
def in_the_clear_first(dialogue: list[tuple[bytes, bytes]]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.pair())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)

        def serve() -> None:
            sock, _ = listening.accept()
            with sock, contextlib.suppress(OSError):
                sock.settimeout(DEADLINE)
                for expected, answer in dialogue:
                    received = b""
                    while len(received) < len(expected):
                        received += sock.recv(100)
                    assert received == expected
                    sock.sendall(answer)
                with context.wrap_socket(sock, server_side=True) as conn:
                    conn.sendall(conn.recv(100))
                    conn.unwrap()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"localhost:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_starttls(protocol: str) -> None:
    with in_the_clear_first(DIALOGUES[protocol]) as addr:
        done = silly("connect", addr, "--starttls", protocol, *CHECKED[1:], data=b"x\n")
    assert done.stdout == b"x\n"
    assert done.stderr.startswith(b"TLSv1.3, ")


def test_a_server_that_refuses_starttls_is_one_line() -> None:
    refusing = [*DIALOGUES["smtp"][:2], (b"STARTTLS\r\n", b"454 not \x1b[31mnow\r\n")]
    with in_the_clear_first(refusing) as addr:
        said = refused_to_connect(addr, "--starttls", "smtp", "--insecure")
    assert said.endswith(r": no TLS for smtp: the server says '454 not \x1b[31mnow'"), said


def test_connect_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    cert, _ = certificates.pair()
    for arguments, said in (
        (("--insecure",), "--insecure needs --tls"),
        (("--alpn", "h2"), "--alpn needs --tls"),
        (("--tls", "--insecure", "--ca", cert), "--insecure and --ca: the certificate is either"),
        (("--tls", "--key", cert), "--key needs --cert, the file with the certificate"),
        (("--tls", "--ca", f"{tmp_path}/none"), f"cannot read {tmp_path}/none: No such file"),
        (("--tls", "--cert", cert), "no certificate, or no private key, in PEM format"),
        (("--tls", "--alpn", "x" * 256), "alpn: a protocol has 1 to 255 ASCII characters"),
        (("--tls", "--server-name", ".b"), "server_name must be a host name, not '.b'"),
        (("--tls", "--listen"), "--listen and --tls: `silly echo --tls` is a server with TLS"),
    ):
        assert said in misused("connect", "localhost:9999", *arguments)


def test_a_terminal_shows_the_certificate_and_whom_it_talks_to() -> None:
    with server(*certificates.pair()) as addr, Terminal("connect", addr, *CHECKED) as terminal:
        terminal.wait_for(r"certificate \(verified\)")
        terminal.wait_for(r"Connected to 127\.0\.0\.1:\d+")
        terminal.wait_for_prompt()
        terminal.type("hello\r")
        terminal.wait_for(r"hello\s+hello")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0


def test_what_is_no_certificate_is_said() -> None:
    first, second = described_chain((b"garbage", b""), verified=False)
    assert first.startswith("certificate: ")
    assert second.startswith("certificate: ")
    assert _date(1e20) == "1e+20 s"


def test_what_to_type_for_a_unix_socket(tmp_path: Path) -> None:
    cert, key = certificates.pair()
    ca = str(tmp_path / "ca.pem")
    made = echoing_tls.Certificate(tls.Server(cert, key), cert, ca)
    lines = "\n".join(made.lines("unix:/run/x"))
    assert f"silly connect unix:/run/x --server-name localhost --tls --ca {ca}" in lines
    assert "-unix /run/x" in lines


@pytest.mark.parametrize(
    ("protocol", "reply", "kind", "text"),
    [
        ("postgres", b"N", ConnectionError, "no TLS for postgres: the server answers b'N'"),
        ("smtp", b"220-x\r\n" * 1000, ConnectionError, "no TLS for smtp: too many lines"),
        ("smtp", b"", TimeoutError, r"no TLS within 0.01 seconds"),
    ],
)
async def test_servers_that_do_not_start_tls(
    protocol: str, reply: bytes, kind: type[OSError], text: str
) -> None:
    async def serve(conn: tcp.Conn) -> None:
        conn.write(reply)
        await conn.wait_closed()

    async with tcp.listen("127.0.0.1:0", serve) as listener:
        conn = await tcp.connect(listener.local_addr)
        timeout = 30.0 if reply else 0.01
        with pytest.raises(kind, match=text):
            await start_tls(conn, tls.Client(), protocol, timeout)
        conn.abort()
