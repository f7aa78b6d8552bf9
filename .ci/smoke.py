"""A quick check of an installed silly, on any system: python smoke.py [native|portable].

Needs nothing but silly, which must have the engine that is named. With the extra `http`, a
request is answered, too.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import silly
from silly import testing
from silly.net import tcp
from silly.net.tcp import Conn

SCRIPT = """
from silly.net import tcp

async def echo(conn):
    async for line in conn:
        await conn.write(line)

listener = tcp.listen("127.0.0.1:0", echo)
async with tcp.connect(listener.local_addr) as conn:
    await conn.write(b"hello\\n")
    print((await conn.read(b"\\n", timeout=10)).decode(), end="")
await listener.close()
"""


async def tcp_pair() -> tuple[Conn, Conn]:
    accepted: asyncio.Queue[Conn] = asyncio.Queue()

    async def handler(conn: Conn) -> None:
        accepted.put_nowait(conn)
        await conn.wait_closed()

    listener = tcp.listen("127.0.0.1:0", handler)
    one = await tcp.connect(listener.local_addr)
    other = await accepted.get()
    asyncio.get_running_loop().call_soon(listener.close, 60)
    return one, other


async def answers_http() -> bool:
    try:
        from silly.net import http  # noqa: PLC0415 - an extra
    except ImportError:
        return False

    async def hello(request: http.Request) -> http.Response:
        return http.Response(f"Hello, {request.path}!")

    async with http.listen("127.0.0.1:0", hello) as listener, http.Client() as client:
        reply = await client.get(f"http://{listener.local_addr}/world")
        assert await reply.text() == "Hello, /world!"
    return True


async def main() -> None:
    await testing.check_conn(tcp_pair)
    has_http = await answers_http()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "script.py"
        path.write_text(SCRIPT, encoding="utf-8")
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "silly", str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hello\n"), done
    print(f"silly {silly.__version__} works: {silly.engine()} engine, http: {has_http}")


if __name__ == "__main__":
    assert not sys.argv[1:] or silly.engine() == sys.argv[1], silly.engine()
    asyncio.run(main())
