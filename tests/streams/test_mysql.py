"""aiomysql, unchanged, over silly's streams, with a real server."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from silly import streams
from silly.streams.reader import ConnReader

aiomysql = pytest.importorskip("aiomysql")
pytestmark = pytest.mark.skipif(
    not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")), reason="needs mariadbd"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a server whose only user is the one who runs the tests."""
    folder = tmp_path_factory.mktemp("mariadb")
    path, data, user = folder / "socket", folder / "data", getpass.getuser()
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}",
         "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    command = [
        "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={path}", f"--user={user}",
        "--skip-networking", "--innodb-buffer-pool-size=16M", "--max-allowed-packet=16M",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if "ready for connections" in line:
                    break
            yield path
        finally:
            server.terminate()
            server.stderr.read()


async def test_rows_and_large_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiomysql.connection, "_open_unix_connection", streams.open_unix_connection)
    conn = await aiomysql.connect(unix_socket=str(path), user="root", autocommit=True)
    try:
        assert isinstance(conn._reader, ConnReader)
        async with conn.cursor() as cursor:
            await cursor.execute("CREATE OR REPLACE DATABASE shop")
            await cursor.execute("USE shop")
            await cursor.execute("CREATE OR REPLACE TABLE items (id INT, data LONGTEXT)")
            await cursor.executemany(
                "INSERT INTO items VALUES (%s, %s)", [(n, "é" * n) for n in range(200)]
            )
            await cursor.execute("SELECT id, data FROM items ORDER BY id")
            rows = await cursor.fetchall()
            assert list(rows) == [(n, "é" * n) for n in range(200)]
            large = "0123456789abcdef" * 131_072
            await cursor.execute("SELECT %s", (large,))
            assert await cursor.fetchone() == (large,)
            with pytest.raises(aiomysql.ProgrammingError, match="doesn't exist"):
                await cursor.execute("SELECT * FROM nowhere")
    finally:
        await conn.ensure_closed()
