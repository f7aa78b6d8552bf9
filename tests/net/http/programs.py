"""Proxies and servers that tests run beside silly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

__all__ = ["nginx", "program"]

NGINX: Final = """\
daemon off;
master_process off;
pid {directory}/pid;
error_log /dev/null;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/1;
    proxy_temp_path {directory}/2;
    fastcgi_temp_path {directory}/3;
    uwsgi_temp_path {directory}/4;
    scgi_temp_path {directory}/5;
    {http}
}}
"""


@contextlib.asynccontextmanager
async def program(*command: str) -> AsyncIterator[None]:
    """Run a program until the end of the block; it may still be starting when the block begins."""
    running = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        await running.wait()


@contextlib.asynccontextmanager
async def nginx(directory: Path, http: str) -> AsyncIterator[None]:
    """Run nginx with this configuration of its part for HTTP; its files are in *directory*."""
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, http=http))
    async with program("nginx", "-c", str(config), "-p", str(directory)):
        yield
