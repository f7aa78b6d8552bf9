"""Programs under TLS: ``silly FILE.py --tls-cert``, SIGHUP, workers."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import DEADLINE, Terminal
from tests.net.tls import certificates
from tests.test_systemd import Manager
from tests.workers.harness import ask, environment, running, script

pytestmark = pytest.mark.no_engine

LISTENING = r"^listening \S+ \d+ (\S+)$"
TOLD = r"listening on (.*) \(\w+ engine\)"


class Files:
    """The files of a certificate, which is replaced while a program runs."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = str(directory / "cert.pem"), str(directory / "key.pem")
        self.use()

    def use(self, *names: str) -> None:
        cert, key = certificates.pair(*names)
        shutil.copy(cert, self.cert)
        shutil.copy(key, self.key)

    @property
    def flags(self) -> tuple[str, ...]:
        return "--tls-cert", self.cert, "--tls-key", self.key


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(str(tmp_path / "notify"))) as made:
        yield made


@contextlib.contextmanager
def encrypted(addr: str) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=certificates.ca_file())
    context.check_hostname = False
    host, _, port = addr.rpartition(":")
    with (
        socket.create_connection((host, int(port)), DEADLINE) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as conn,
    ):
        yield conn


def names(addr: str) -> set[str]:
    """The names in the certificate of the server at *addr*, which echoes."""
    with encrypted(addr) as conn:
        conn.sendall(b"x\n")
        assert conn.recv(10) == b"x\n"
        found: Any = conn.getpeercert()
    return {value for _, value in found["subjectAltName"]}


DEFAULT = {"server.test", "localhost", "127.0.0.1"}


# ------------------------------------------------------------------------- --tls-cert


@pytest.mark.parametrize("how", ["flags", "variables"])
def test_a_plain_program_is_encrypted(tmp_path: Path, files: Files, how: str) -> None:
    flags = files.flags if how == "flags" else ()
    variables = {"SILLY_TLS_CERT": files.cert, "SILLY_TLS_KEY": files.key}
    environ = environment(**(variables if how == "variables" else {}))
    with running("-m", "silly", *flags, script(tmp_path), env=environ) as silly:
        addr = silly.until(LISTENING)[0]
        assert silly.until(TOLD) == [f"{addr} (TLS)"]
        assert names(addr) == DEFAULT
        silly.stop()


MIXED = """
import sys
from silly.net import tcp, tls

async def echo(conn):
    async for line in conn:
        await conn.write(line)

own = tls.Server(sys.argv[1], sys.argv[2])
for given in (None, False, own):
    listener = tcp.listen("127.0.0.1:0", echo, tls=given)
    print("listening", given, listener.is_encrypted, listener.local_addr, flush=True)
"""


def test_a_listener_that_says_what_it_wants_is_left_alone(tmp_path: Path, files: Files) -> None:
    other = certificates.pair("b.example")
    options = [*files.flags, "--admin", f"unix:{tmp_path}/admin.sock"]
    path = script(tmp_path, MIXED)
    with running("-m", "silly", *options, path, *other) as silly:
        told = silly.until(r"^listening .* (True|False) (\S+)$", times=3)
        assert told == ["True", "False", "True"]
        default, plain, own = [line.split()[-1] for line in silly.output.splitlines()[:3]]
        assert names(default) == DEFAULT
        assert ask(plain, b"x\n") == b"x\n"
        assert names(own) == {"b.example"}
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:  # plain
            sock.settimeout(DEADLINE)
            sock.connect(f"{tmp_path}/admin.sock")
            sock.sendall(b"help\n")
            assert b"stats" in sock.recv(1000)
        silly.stop()


STREAMS = """
from silly import streams

async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()

server = await streams.start_server(echo, "127.0.0.1", 0)
print("listening", None, 0, "%s:%d" % server.sockets[0].getsockname(), flush=True)
"""


def test_a_program_with_asyncio_streams_is_encrypted(tmp_path: Path, files: Files) -> None:
    with running("-m", "silly", *files.flags, script(tmp_path, STREAMS)) as silly:
        assert names(silly.until(LISTENING)[0]) == DEFAULT
        silly.stop()


def test_files_that_cannot_be_used_end_the_program_with_one_line(
    tmp_path: Path, files: Files
) -> None:
    for flags, said in (
        (("--tls-cert", "none.pem"), "silly: cannot read none.pem: No such file or directory"),
        (("--tls-key", files.key), "silly: --tls-key needs --tls-cert, the file with the cert"),
        (("--tls-cert", files.cert), f"silly: {files.cert}: no certificate, or no private key"),
        (("--tls-cert", files.cert, "--workers", "2"), f"silly: {files.cert}: no certificate"),
    ):
        with running("-m", "silly", *flags, script(tmp_path)) as silly:
            [line] = silly.rest().splitlines()
        assert line.startswith(said)
        assert silly.process.returncode == 2


def test_workers_encrypt_and_a_restart_reads_the_files_again(tmp_path: Path, files: Files) -> None:
    command = ("-m", "silly", "--workers", "2", *files.flags, script(tmp_path))
    with running(*command) as silly:
        addr = silly.until(LISTENING)[0]
        assert silly.until(TOLD) == [f"{addr} (TLS)"]
        silly.until("is ready", times=2)
        assert names(addr) == DEFAULT
        files.use("new.example")
        silly.send(signal.SIGHUP)
        silly.until("is ready", times=2)
        silly.until(": restarted$")
        assert names(addr) == {"new.example"}
        silly.stop()


def test_a_program_without_tls_loads_nothing_of_it(tmp_path: Path) -> None:
    text = "import sys\nprint([name for name in sys.modules if 'net.tls' in name])\n"
    path = script(tmp_path, text)
    with running("-B", "-m", "silly", path) as silly:  # -B: nothing is imported yet
        assert silly.rest() == "[]\n"


# ----------------------------------------------------------------------------- SIGHUP


def test_sighup_reads_certificates_again(tmp_path: Path, files: Files) -> None:
    with running("-m", "silly", *files.flags, script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        with encrypted(addr) as before:
            files.use("new.example")
            silly.send(signal.SIGHUP)
            silly.until(f"SIGHUP: read again: certificates {files.cert}$")
            assert names(addr) == {"new.example"}
            Path(files.key).write_text("not a key")
            for _ in range(2):
                silly.send(signal.SIGHUP)
                silly.until(f"SIGHUP: read again: not {files.cert}, which cannot be used$")
            assert silly.output.count("the previous certificate stays in use") == 1
            assert names(addr) == {"new.example"}
            before.sendall(b"still there\n")
            assert before.recv(100) == b"still there\n"
        silly.stop()


def test_systemd_is_told_of_it(tmp_path: Path, files: Files, manager: Manager) -> None:
    environ = environment(NOTIFY_SOCKET=manager.name)
    with running("-m", "silly", *files.flags, script(tmp_path), env=environ) as silly:
        assert manager.until("READY=1")
        silly.send(signal.SIGHUP)
        assert manager.until("RELOADING=1")
        assert manager.until("READY=1")
        silly.stop()


STARTTLS = """
import sys
from silly.net import tcp, tls

async def talk(conn):
    async for line in conn:
        if line == b"make\\n":
            made.append(tls.Server(sys.argv[1], sys.argv[2]))
        await conn.write(line)

made = []
listener = tcp.listen("127.0.0.1:0", talk)
print("listening", None, 0, listener.local_addr, flush=True)
"""


def test_a_program_that_has_no_certificates_is_ended_by_sighup(
    tmp_path: Path, files: Files
) -> None:
    path = script(tmp_path, STARTTLS)
    with running("-m", "silly", path, files.cert, files.key) as silly:
        silly.until(LISTENING)
        silly.send(signal.SIGHUP)
        silly.rest()
        assert silly.process.returncode == -signal.SIGHUP


def test_a_certificate_that_is_made_later_counts(tmp_path: Path, files: Files) -> None:
    path = script(tmp_path, STARTTLS)
    with running("-m", "silly", path, files.cert, files.key) as silly:
        addr = silly.until(LISTENING)[0]
        assert ask(addr, b"make\nmade\n") == b"make\nmade\n"
        silly.send(signal.SIGHUP)
        silly.until("SIGHUP: read again: certificates")
        silly.stop()


def test_a_program_that_ignores_sighup_goes_on_to(tmp_path: Path, files: Files) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    with running("-c", ignoring, "-m", "silly", *files.flags, script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.send(signal.SIGHUP)
        assert names(addr) == DEFAULT
        silly.stop()
        assert "SIGHUP" not in silly.output


def test_a_terminal_that_is_hung_up_ends_the_program(tmp_path: Path, files: Files) -> None:
    """As it would without certificates; a SIGHUP that somebody sends does not."""
    with Terminal(*files.flags, str(script(tmp_path))) as terminal:
        terminal.wait_for(r"engine\)")
        terminal.process.send_signal(signal.SIGHUP)
        terminal.wait_for("read again")
        terminal.hang_up()
        assert terminal.process.wait(DEADLINE) == -signal.SIGHUP


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_to_it(tmp_path: Path, files: Files) -> None:
    text = """
    from silly.net import tcp

    async def hello(conn):
        await conn.read(b"\\r\\n\\r\\n")
        await conn.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n")

    listener = tcp.listen("127.0.0.1:0", hello)
    print("listening", None, 0, listener.local_addr, flush=True)
    """
    with running("-m", "silly", *files.flags, script(tmp_path, text)) as silly:
        url = f"https://{silly.until(LISTENING)[0]}/"
        for flags in (["--cacert", certificates.ca_file()], ["-k"]):
            command = ["curl", "-sS", "--noproxy", "*", *flags, url]
            done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True)
            assert done.stdout == b"hello\n"
        silly.stop()
