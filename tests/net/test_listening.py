"""Sockets that listen where the system has not all that an address means, or tells not all."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silly import systemd
from silly.net import listening, tcp
from silly.net.addr import TCPAddress
from silly.net.tcp import Conn

pytestmark = pytest.mark.no_engine

BOTH = {family for family, *_ in socket.getaddrinfo(None, 0, flags=socket.AI_PASSIVE)}
needs_both = pytest.mark.skipif(socket.AF_INET6 not in BOTH, reason="needs IPv6")


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def refuse(
    monkeypatch: pytest.MonkeyPatch, call: str, error: int, refuses: Callable[[], bool]
) -> None:
    """Let *call* of IPv6 sockets fail, as long as *refuses*."""
    real = getattr(socket.socket, call)

    def refusing(self: socket.socket, *arguments: Any, **options: Any) -> Any:
        family = (*arguments, None)[0] if call == "__init__" else self.family
        if family == socket.AF_INET6 and refuses():
            raise OSError(error, os.strerror(error))
        return real(self, *arguments, **options)

    monkeypatch.setattr(socket.socket, call, refusing)


@needs_both
@pytest.mark.parametrize(
    ("call", "error"), [("__init__", errno.EAFNOSUPPORT), ("bind", errno.EADDRNOTAVAIL)]
)
async def test_without_ipv6_every_interface_is_every_one_of_ipv4(
    monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, call, error, lambda: True)
        listener = tcp.listen(":0", echo)
        with pytest.raises(OSError, match=r"'\[::1\]:0'") as failed:
            tcp.listen("[::1]:0", echo)
    assert failed.value.errno == error
    async with listener:
        (addr,) = listener.local_addrs
        assert addr.startswith("0.0.0.0:")


@needs_both
@pytest.mark.parametrize("times", [1, 3, 1000])
async def test_a_port_that_one_family_gave_may_be_taken_in_the_other(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    left = times

    def is_taken() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    with monkeypatch.context() as patch:
        refuse(patch, "bind", errno.EADDRINUSE, is_taken)
        if times == 1000:
            with pytest.raises(OSError, match="Address already in use"):
                tcp.listen(":0", echo)
            return
        listener = tcp.listen(":0", echo)
    async with listener:
        one, other = listener.local_addrs
        assert one.rpartition(":")[2] == other.rpartition(":")[2]


@needs_both
@pytest.mark.parametrize("takes_ipv4", [True, False])
async def test_a_passed_socket_of_both_families_is_one_of_ipv4(
    monkeypatch: pytest.MonkeyPatch, takes_ipv4: bool
) -> None:
    with socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=takes_ipv4
    ) as passed:
        sockaddr = passed.getsockname()
        given = [
            systemd.Activated("a", -1, socket.AF_INET, ("127.0.0.2", 1)),
            systemd.Activated("b", passed.fileno(), passed.family, sockaddr),
        ]
        monkeypatch.setattr("silly.net.listening.activated", lambda: given)
        async with tcp.listen(f"0.0.0.0:{sockaddr[1]}", echo) as listener:
            own, _, port = listener.local_addr.rpartition(":")
            assert own == ("[::]" if takes_ipv4 else "0.0.0.0")
            assert int(port) == sockaddr[1]


async def test_a_passed_unix_socket_whose_file_is_gone_is_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as passed, socket.socket() as other:
        passed.bind(str(tmp_path / "gone"))
        passed.listen()
        (tmp_path / "gone").unlink()
        given = [
            systemd.Activated("a", other.fileno(), other.family, other.getsockname()),
            systemd.Activated("b", passed.fileno(), passed.family, passed.getsockname()),
        ]
        monkeypatch.setattr("silly.net.listening.activated", lambda: given)
        async with tcp.listen(f"unix:{tmp_path}/./x", echo) as listener:
            async with tcp.connect(listener.local_addr) as conn:
                conn.write(b"a\n")
                assert await conn.read(b"\n") == b"a\n"


async def test_names_that_workers_listen_on_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **named: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("silly.net.listening.getaddrinfo", unknown)
    with pytest.raises(socket.gaierror, match=r"'a\.test:9'"):
        await listening.resolve(TCPAddress("a.test", 9))


async def test_a_stale_file_stays_where_no_lock_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (tmp_path / "x.sock.lock").mkdir()
    with pytest.raises(OSError, match="the path exists"):
        tcp.listen(f"unix:{path}", echo)
    (tmp_path / "x.sock.lock").rmdir()
    async with tcp.listen(f"unix:{path}", echo):
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("told", [None, "", "Ip: A\nIp: 1\n", "TcpExt: A B\nTcpExt: 1 2\n"])
async def test_full_backlogs_are_unknown_where_the_system_does_not_count_them(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    def read(_: Path) -> str:
        if told is None:
            raise FileNotFoundError
        return told

    monkeypatch.setattr(Path, "read_text", read)
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        assert listener.stats.backlog_overflows is None
