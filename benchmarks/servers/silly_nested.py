"""silly_echo.py in the loop of `asyncio.run`, in which silly's reactor is nested."""

import asyncio
import runpy
from pathlib import Path


async def main():
    runpy.run_path(str(Path(__file__).with_name("silly_echo.py")))
    await asyncio.Event().wait()


asyncio.run(main())
