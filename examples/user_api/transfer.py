"""Money from one account to another, in a transaction: ``python transfer.py [DATABASE]``."""

from __future__ import annotations

import asyncio
import random
import sys

import silly
from app import opened
from database import Conflict, Pool


class RefusedError(Exception):
    """The transfer is not possible."""


async def transfer(database: Pool, source: int, target: int, amount: int) -> None:
    """Move *amount*; after a conflict with another transfer, try again, a few times."""
    for attempt in range(10):
        try:
            return await _transfer(database, source, target, amount)
        except Conflict:
            await asyncio.sleep(random.random() * 0.01 * 2**attempt)
    raise RefusedError("there is too much going on with these accounts")


async def _transfer(database: Pool, source: int, target: int, amount: int) -> None:
    async with database.transaction() as transaction:
        # FOR UPDATE: until the commit, nobody else may change what the decision rests on.
        rows = await transaction.query(
            f"SELECT balance FROM accounts WHERE id = ?{transaction.FOR_UPDATE}", source
        )
        if not rows:
            raise RefusedError("account not found")
        if rows[0]["balance"] < amount:
            raise RefusedError("insufficient balance")
        await transaction.execute(
            "UPDATE accounts SET balance = balance - ? WHERE id = ?", amount, source
        )
        result = await transaction.execute(
            "UPDATE accounts SET balance = balance + ? WHERE id = ?", amount, target
        )
        if not result.affected:
            raise RefusedError("account not found")  # the whole transfer is undone


async def main() -> None:
    """Make many transfers at once; no account may be overdrawn, and no money made or lost."""
    url = sys.argv[1] if len(sys.argv) > 1 else "sqlite:users.db"
    async with opened(url, "") as services:
        database = services.database
        await database.execute("DROP TABLE IF EXISTS accounts")
        await database.execute("CREATE TABLE accounts (id INT PRIMARY KEY, balance INT NOT NULL)")
        await database.execute("INSERT INTO accounts VALUES (1, 100), (2, 100), (3, 0)")

        async def try_transfer(source: int, target: int) -> bool:
            try:
                await transfer(database, source, target, 30)
            except RefusedError:
                return False
            return True

        pairs = [(1, 2), (2, 1), (1, 3), (2, 3), (1, 3)] * 4
        done = await asyncio.gather(*(try_transfer(*pair) for pair in pairs))
        rows = await database.query("SELECT balance FROM accounts ORDER BY id")
        balances = [row["balance"] for row in rows]
        print(f"{sum(done)} of {len(done)} transfers were made, balances {balances}")
        assert sum(balances) == 200
        assert min(balances) >= 0


silly.run(main())
