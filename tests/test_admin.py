"""The admin socket, used like `nc -U` and `socat` use it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from silly import admin
from silly._loop.live import Live
from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.tcp import Conn
from silly.runtime import intervention
from tests.workers.harness import ask as harness_ask
from tests.workers.harness import dial, running, script

ANY = "127.0.0.1:0"


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def ask(conn: Conn, command: str) -> Any:
    conn.write(command.encode() + b"\n")
    return json.loads(await conn.read(b"\n", limit=1_000_000))


async def test_it_answers_commands(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    socket = admin.serve(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not Live.of(asyncio.get_running_loop())  # it does not keep the program running
    async with tcp.listen(ANY, echo) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            await client.write(b"hello\n")
            await client.read(b"\n")
            async with await tcp.connect(f"unix:{path}") as conn:
                stats = await ask(conn, "stats")
                assert stats["pid"] == os.getpid()
                counts = stats["listeners"][listener.local_addr]
                assert (counts["connections"], counts["bytes_in"]) == (1, 6)
                assert list(stats["listeners"]) == [
                    listener.local_addr
                ]  # the admin socket is not listed
                group, own = (await ask(conn, "  connections\r"))["listeners"]
                assert group["listener"] == listener.local_addr
                assert group["connections"][0]["peer"] == client.local_addr
                assert group["connections"][0]["waits_for"] == r"read of b'\n'"
                assert own["listener"] is None
                group, _ = (await ask(conn, "connections 0"))["listeners"]
                assert group["connections"] == []
                assert group["others"][0]["count"] == 1
                tasks = await ask(conn, "tasks")
                assert tasks["handlers"] == 1
                assert any("test_admin.py" in str(each["at"]) for each in tasks["tasks"])
                assert (await ask(conn, "tasks 0"))["tasks"] == []
                assert await ask(conn, "help") == admin.COMMANDS
    await socket.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            "nonsense",
            "'nonsense' is not a command; the commands are: stats, processes, connections",
        ),
        ("stats 5", "stats takes no argument, not '5'"),
        ("tasks x", "tasks takes a number of entries below 1000000, not 'x'"),
        ("connections 10000000", "connections takes a number of entries below 1000000"),
        ("\xff", "is not a command"),
    ],
)
async def test_wrong_commands_are_answered_with_an_error(
    tmp_path: Path, command: str, error: str
) -> None:
    async with admin.serve(f"unix:{tmp_path}/s") as socket:
        async with await tcp.connect(socket.local_addr) as conn:
            conn.write(b"\n \n")  # empty lines get no answer
            assert error in (await ask(conn, command))["error"]
            assert await ask(conn, "help") == admin.COMMANDS


async def test_an_endless_command_ends_the_connection(tmp_path: Path) -> None:
    async with admin.serve(f"unix:{tmp_path}/s") as socket:
        async with await tcp.connect(socket.local_addr) as conn:
            conn.write(b"x" * 10_000)
            with pytest.raises((EOFError, OSError)):
                await conn.read()


@pytest.mark.parametrize("addr", ["127.0.0.1:0", ":0", "localhost:9999", "unix:@name"])
async def test_it_cannot_be_reached_over_a_network(addr: str) -> None:
    with pytest.raises(ValueError, match=r"is not the path of a Unix socket.*such as 'unix:/run"):
        admin.serve(addr)


@pytest.mark.parametrize("options", [[], ["--workers", "1"]], ids=["alone", "workers"])
def test_it_is_private_whatever_the_umask_is_and_does_not_change_it(
    tmp_path: Path, options: list[str]
) -> None:
    text = """
        import os, silly.admin
        from silly.net import tcp
        async def leave(conn): pass
        def changed(mask): raise AssertionError("the umask is shared by all threads")
        os.umask = changed
        silly.admin.serve("unix:admin.sock")
        tcp.listen("unix:open.sock", leave, mode=0o660)
        tcp.listen("unix:left.sock", leave)
        names = "admin.sock", "open.sock", "left.sock"
        print("modes", *(oct(os.stat(name).st_mode)[-3:] for name in names), flush=True)
    """
    path = script(tmp_path, text)
    with running("-m", "silly", *options, path, cwd=tmp_path, umask=0o022) as silly:
        assert silly.until(r"modes (.*)") == ["600 660 755"]
        silly.stop()
    assert list(tmp_path.iterdir()) == [path]


async def test_a_source_that_fails_is_named_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: str) -> Any:
        raise ZeroDivisionError

    async with admin.serve(f"unix:{tmp_path}/s", fails) as socket:
        async with await tcp.connect(socket.local_addr) as conn:
            assert await ask(conn, "help") == {
                "error": "cannot answer (ZeroDivisionError): see the log"
            }
            with pytest.raises(EndOfStream):
                await conn.read(1)
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_it_answers_without_a_socket() -> None:
    assert admin.answer("stats")["pid"] == os.getpid()
    (process,) = admin.answer("processes")
    assert process["pid"] == os.getpid()


async def test_another_source_can_answer(tmp_path: Path) -> None:
    async def workers(command: str) -> Any:
        await asyncio.sleep(0)
        if command == "bad":
            raise ValueError("not this")
        return [command, admin.answer(command)]

    async with admin.serve(f"unix:{tmp_path}/s", workers) as socket:
        async with await tcp.connect(socket.local_addr) as conn:
            assert await ask(conn, "help") == ["help", admin.COMMANDS]
            assert await ask(conn, "bad") == {"error": "not this"}


@pytest.mark.parametrize(
    "command",
    [["nc", "-N", "-U", "{path}"], ["socat", "-t5", "-", "UNIX-CONNECT:{path}"]],
    ids=lambda command: command[0],
)
async def test_real_clients(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    async with admin.serve(f"unix:{tmp_path}/s"):
        words = [word.format(path=tmp_path / "s") for word in command]
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await process.communicate(b"stats\nhelp\n")
        stats, commands = map(json.loads, answer.splitlines())
        assert stats["pid"] == os.getpid()
        assert commands == admin.COMMANDS


@pytest.mark.parametrize("verb", ["close", "abort"])
async def test_connections_are_closed_by_id_peer_or_host(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervention, "_BATCH", 2)
    async with (
        admin.serve(f"unix:{tmp_path}/s") as socket,
        tcp.listen(ANY, echo) as listener,
        tcp.connect(socket.local_addr) as conn,
    ):
        clients = [await tcp.connect(listener.local_addr) for _ in range(4)]
        for client in clients:
            await client.write(b"x\n")
            await client.read(b"\n")
        group = (await ask(conn, "connections"))["listeners"][0]
        ids = {each["peer"]: each["id"] for each in group["connections"]}
        assert len(set(ids.values())) == 4
        first, second, *others = clients
        assert await ask(conn, f"{verb} {ids[first.local_addr]}") == {"closed": 1}
        assert await ask(conn, f"{verb} {second.local_addr}") == {"closed": 1}
        for client in (first, second):
            with pytest.raises((EOFError, ConnectionResetError)):
                await client.read()
        await others[0].write(b"y\n")
        assert await others[0].read(b"\n") == b"y\n"
        # Those that this process made to 127.0.0.1 are not meant.
        assert await ask(conn, f"{verb} 127.0.0.1") == {"closed": 2}
        assert await ask(conn, f"{verb} 192.0.2.1") == {
            "error": "no connection has the id or the peer '192.0.2.1'"
        }
        assert "takes the id of a connection" in (await ask(conn, verb))["error"]
        for client in clients:
            client.close()


async def test_verbs_that_act_check_their_arguments(tmp_path: Path) -> None:
    async with (
        admin.serve(f"unix:{tmp_path}/s") as socket,
        tcp.connect(socket.local_addr) as conn,
    ):
        assert "is run neither by" in (await ask(conn, "drain"))["error"]
        assert "soon" in (await ask(conn, "drain soon"))["error"]
        assert "not 'loud'" in (await ask(conn, "log-level loud"))["error"]
        assert await ask(conn, "health") == {"state": "starting", "detail": ""}
        (process,) = await ask(conn, "processes")
        assert (process["worker"], process["pid"]) == (None, os.getpid())
        with pytest.raises(ValueError, match="acts on the program"):
            admin.answer("drain")


@pytest.fixture
def quiet_logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("silly.test_admin")
    yield found
    found.setLevel(logging.NOTSET)


async def test_levels_of_loggers_can_be_changed(
    tmp_path: Path, quiet_logger: logging.Logger
) -> None:
    async with (
        admin.serve(f"unix:{tmp_path}/s") as socket,
        tcp.connect(socket.local_addr) as conn,
    ):
        assert quiet_logger.name not in await ask(conn, "log-level")
        assert (await ask(conn, f"log-level {quiet_logger.name} Error"))[
            quiet_logger.name
        ] == "error"
        assert quiet_logger.level == logging.ERROR


@pytest.mark.no_engine
def test_a_program_is_drained(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with running("-m", "silly", "--admin", f"unix:{path}", script(tmp_path)) as silly:
        (addr,) = silly.until(r"listening \S+ \d+ (\S+)")
        with dial(addr) as sock:
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
            assert harness_ask(f"unix:{path}", b"drain\n") == b'{"draining": true}\n'
            silly.until("stopping; waiting up to 5 s for 1 connection")
            sock.sendall(b"y\n")
            assert sock.recv(10) == b"y\n"
            assert harness_ask(f"unix:{path}", b"drain 0\n") == b'{"draining": true}\n'
            silly.rest()
        assert silly.process.returncode == 0
