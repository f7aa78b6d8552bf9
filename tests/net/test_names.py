"""Unix socket paths, scoped addresses, and names to resolve."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silly.net import listening, tcp
from silly.net.addr import UnixAddress
from silly.net.tcp import Conn
from tests.workers.harness import dial, running, script


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def ask(addr: str) -> None:
    async with await tcp.connect(addr, timeout=10) as conn:
        conn.write(b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"


def bound(path: str | Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    return sock


# ------------------------------------------------------------ the file of a socket


async def test_closing_leaves_the_file_of_another_listener_at_the_same_path(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    old = tcp.listen(f"unix:{path}", echo)
    path.unlink()
    new = tcp.listen(f"unix:{path}", echo)
    await old.close()
    await ask(f"unix:{path}")
    await new.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "replace",
    [
        lambda path: path.write_text("somebody's"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("elsewhere"),
        lambda path: bound(path).close(),
    ],
    ids=["file", "directory", "link", "stale"],
)
async def test_closing_leaves_another_file_at_the_path(
    tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.sock"
    listener = tcp.listen(f"unix:{path}", echo)
    path.unlink()
    replace(path)
    before = path.lstat()
    await listener.close()
    assert os.path.samestat(path.lstat(), before)


@pytest.mark.parametrize("move", [False, True], ids=["chdir", "renamed"])
async def test_closing_removes_the_file_from_a_moved_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    monkeypatch.chdir(mine)
    listener = tcp.listen("unix:x.sock", echo)
    with bound(other / "x.sock"):
        monkeypatch.chdir(other)
        if move:
            mine.rename(tmp_path / "moved")
            other.rename(mine)
        await listener.close()
        assert [path.name for path in tmp_path.rglob("*.sock")] == ["x.sock"]
        assert Path("x.sock").is_socket()


async def test_a_file_that_cannot_be_removed_does_not_stop_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.sock"
    listener = tcp.listen(f"unix:{path}", echo)
    async with await tcp.connect(f"unix:{path}") as conn:
        conn.write(b"1\n")
        assert await conn.read(b"\n") == b"1\n"

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "no")

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse)
            closing = listener.close(grace=10)
        assert listener.state == "draining"
        conn.write(b"2\n")
        assert await conn.read(b"\n") == b"2\n"
    await closing
    with pytest.raises(ConnectionRefusedError):
        await tcp.connect(f"unix:{path}")
    async with tcp.listen(f"unix:{path}", echo):  # replaces the stale file
        await ask(f"unix:{path}")


@pytest.mark.parametrize("options", [[], ["--workers", "1"]], ids=["alone", "workers"])
def test_a_program_that_drops_privileges_after_binding_drains(
    tmp_path: Path, options: list[str]
) -> None:
    text = """
        import os
        from silly.net import tcp
        async def echo(conn):
            async for line in conn: await conn.write(line)
        tcp.listen("unix:rights/x.sock", echo, mode=0o666)
        os.chmod("rights", 0o555)
        if os.geteuid() == 0: os.setuid(65534)
        print("up", flush=True)
    """
    rights = tmp_path / "rights"
    rights.mkdir()
    tmp_path.chmod(0o755)
    with running("-m", "silly", *options, script(tmp_path, text), cwd=tmp_path) as silly:
        silly.until("up")
        if options:
            silly.until("is ready")
        with dial(f"unix:{rights}/x.sock") as client, client.makefile("rb") as file:
            for line in (b"1\n", b"2\n"):
                client.sendall(line)
                assert file.readline() == line
                if line == b"1\n":
                    silly.send(signal.SIGTERM)
                    silly.until("stopping; waiting")
        assert "Traceback" not in silly.rest()
        assert silly.process.returncode == 0
    rights.chmod(0o755)


def test_a_forked_child_does_not_remove_its_parents_file(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    opened = listening.open_sockets(UnixAddress(str(path)), 1, reuse_port=False)
    child = os.fork()
    if not child:
        opened.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.is_socket()
    opened.sockets[0].close()
    opened.release()
    assert not path.exists()


# ------------------------------------------------------------------ stale or living


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
async def test_only_sockets_that_no_process_has_open_are_replaced(
    tmp_path: Path, kind: socket.SocketKind
) -> None:
    path = tmp_path / "x.sock"
    with bound(path, kind):  # without listening
        before = path.stat()
        with pytest.raises(OSError, match=r"in use; the path exists: stop the program") as failed:
            tcp.listen(f"unix:{path}", echo)
        assert failed.value.errno == errno.EADDRINUSE
        assert os.path.samestat(path.stat(), before)
    async with tcp.listen(f"unix:{path}", echo):
        await ask(f"unix:{path}")
    assert list(tmp_path.iterdir()) == []


async def test_checking_for_a_stale_socket_makes_no_connection(tmp_path: Path) -> None:
    with bound(tmp_path / "x.sock") as sock:
        sock.listen()
        sock.setblocking(False)
        with pytest.raises(OSError, match="in use"):
            tcp.listen(f"unix:{tmp_path}/x.sock", echo)
        with pytest.raises(BlockingIOError):
            sock.accept()


async def test_a_stale_socket_is_replaced_although_its_connections_are_open(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with bound(path) as sock:
        sock.listen()
        client = dial(f"unix:{path}")
        accepted, _ = sock.accept()
    with client, accepted:
        async with tcp.listen(f"unix:{path}", echo):
            await ask(f"unix:{path}")


async def test_a_link_is_not_followed_to_a_stale_socket(tmp_path: Path) -> None:
    bound(tmp_path / "stale.sock").close()
    (tmp_path / "x.sock").symlink_to("stale.sock")
    with pytest.raises(OSError, match="in use"):
        tcp.listen(f"unix:{tmp_path}/x.sock", echo)
    assert (tmp_path / "x.sock").is_symlink()
    assert (tmp_path / "stale.sock").is_socket()


def test_of_many_that_find_a_stale_socket_one_listens_and_can_be_reached(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    count = 8
    meet = threading.Barrier(count)
    for _ in range(20):
        bound(path).close()
        won: list[Any] = []
        lost: list[int | None] = []

        def start(won: list[Any] = won, lost: list[int | None] = lost) -> None:
            meet.wait()
            try:
                won.append(listening.open_sockets(UnixAddress(str(path)), 1, reuse_port=False))
            except OSError as error:
                lost.append(error.errno)

        threads = [threading.Thread(target=start) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (opened,) = won
        assert lost == [errno.EADDRINUSE] * (count - 1)
        with dial(f"unix:{path}"), opened.sockets[0] as sock:
            sock.accept()[0].close()
            opened.release()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holder", ["another program", "a dead program"])
async def test_a_lock_of_another_program_is_respected(tmp_path: Path, holder: str) -> None:
    import fcntl

    path = tmp_path / "x.sock"
    bound(path).close()
    with (tmp_path / "x.sock.lock").open("w") as lock:
        if holder == "another program":
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="in use"):
                tcp.listen(f"unix:{path}", echo)
            assert len(list(tmp_path.iterdir())) == 2
        else:  # the program was killed
            async with tcp.listen(f"unix:{path}", echo):
                assert list(tmp_path.iterdir()) == [path]


async def test_a_failed_listen_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", fail)
        with pytest.raises(OSError, match="No buffer space"):
            tcp.listen(f"unix:{tmp_path}/x.sock", echo, mode=0o600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("addr", "mode", "error"),
    [
        ("127.0.0.1:0", 0o600, ValueError),
        ("unix:@name", 0o600, ValueError),
        ("unix:x.sock", 0o1000, ValueError),
        ("unix:x.sock", -1, ValueError),
        ("unix:x.sock", "600", TypeError),
    ],
)
async def test_bad_modes(addr: str, mode: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="mode"):
        tcp.listen(addr, echo, mode=mode)


# -------------------------------------------- reported addresses can be connected to


@pytest.mark.parametrize(
    "name",
    [b"a b", b"a\nb", b"\xff\xfe", b"@a", b"%41", b"unix:x", b"\0silly", b"\0silly\0\n\xff\x1b[m"],
)
async def test_every_reported_name_of_a_unix_socket_can_be_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    if not name[0]:
        name += b" of %d" % os.getpid()  # abstract names are machine-wide
    text = os.fsdecode(name)
    addr = str(UnixAddress(text))
    seen: list[str] = []

    async def handler(conn: Conn) -> None:
        seen.extend((conn.local_addr, conn.remote_addr))
        await echo(conn)

    async with tcp.listen(addr, handler) as listener:
        assert listener.local_addr == addr
        await ask(addr)
        async with await tcp.connect(listener.local_addr) as conn:
            assert conn.remote_addr == addr
    assert seen == [addr, "unix:"] * 2

    seen.clear()
    async with tcp.listen("unix:server", handler):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.bind(name)
            await asyncio.get_running_loop().sock_connect(client, "server")
            await asyncio.get_running_loop().sock_sendall(client, b"x\n")
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"x\n"
        assert seen == ["unix:server", addr]
    if name[0]:
        assert [path.name for path in tmp_path.iterdir()] == [text]


def _link_local() -> str | None:
    """Return an address of this machine that has a scope, including the scope."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for address, _, _, scope, _, interface in map(str.split, lines):
        if scope == "20":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))}%{interface}"
    return None


@pytest.mark.skipif(_link_local() is None, reason="no interface has a link-local address")
async def test_addresses_are_reported_with_their_scope() -> None:
    host = _link_local()
    seen: list[str] = []

    async def handler(conn: Conn) -> None:
        seen.extend((conn.local_addr, conn.remote_addr))
        await echo(conn)

    async with tcp.listen(f"[{host}]:0", handler) as listener:
        assert listener.local_addr.startswith(f"[{host}]:")
        await ask(listener.local_addr)
        async with await tcp.connect(listener.local_addr, bind=f"[{host}]:0") as conn:
            conn.write(b"hello\n")
            await conn.read(b"\n")
            assert seen[2:] == [conn.remote_addr, conn.local_addr]
    with pytest.raises(ConnectionRefusedError) as failed:
        await tcp.connect(listener.local_addr)
    assert failed.value.filename == listener.local_addr
    assert seen[0] == listener.local_addr
    assert all(addr.startswith(f"[{host}]:") for addr in seen)


# ------------------------------------------------------------------------ resolving


async def test_numeric_addresses_need_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = socket.getaddrinfo

    def no_resolver(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        assert host is None or options.get("flags", 0) & socket.AI_NUMERICHOST, host
        return asking(host, port, *rest, **options)

    async with tcp.listen(":0", echo) as listener:
        port = listener.local_addr.rpartition(":")[2]
        monkeypatch.setattr(socket, "getaddrinfo", no_resolver)
        for host in ("", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
            await ask(f"{host}:{port}")
        async with await tcp.connect(f":{port}", bind=":0") as conn:
            assert conn.remote_addr == f"127.0.0.1:{port}"
    with pytest.raises(ConnectionRefusedError) as failed:
        await tcp.connect(f":{port}")
    assert failed.value.filename == f":{port}"
