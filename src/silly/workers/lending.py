"""Which worker accepts on which of the supervisor's sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

from silly.workers.channel import Key, Lend, Open, Refused, Return
from silly.workers.channel import Sockets as Granted
from silly.workers.fleet import Fleet
from silly.workers.process import Slot, Worker
from silly.workers.sockets import Sockets

__all__ = ["Lender"]

_RESOLVE_TIMEOUT: Final = 20.0  # seconds; less than a worker waits for the answer


class Lender:
    """Gives workers the sockets that they ask for, and those of missing workers to others."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._sockets = Sockets()

    async def open(self, worker: Worker, wanted: Open) -> None:
        """Answer what *worker* asked for: with the open sockets, or why there are none."""
        number, key = worker.slot.number, (wanted.address, wanted.index)
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT):
                where = await self._sockets.resolve(number, key)
            sockets = self._sockets.open(number, wanted, where)
        except asyncio.CancelledError:
            text = "The supervisor stops the worker"
            worker.channel.send(Refused(errno.ECANCELED, text, key[0], unresolved=False))
            raise
        except TimeoutError:
            text = "No name server answered"
            worker.channel.send(Refused(socket.EAI_AGAIN, text, key[0], unresolved=True))
        except OSError as error:
            text = error.strerror or str(error)
            unresolved = isinstance(error, socket.gaierror)
            worker.refused = Refused(error.errno, text, error.filename or key[0], unresolved)
            worker.channel.send(worker.refused)
        else:
            worker.refused = None
            worker.listening.add(key)
            worker.channel.send(Granted(), [sock.fileno() for sock in sockets])

    def names(self, worker: Worker) -> list[str]:
        """Return the addresses that *worker* listens on, with the ports chosen for port 0."""
        return [
            name
            for key in sorted(worker.listening)
            for name in self._sockets.names(worker.slot.number, key)
        ]

    def release(self, slot: Slot, key: Key) -> None:
        """Close the sockets for *key* that no worker listens on any more."""
        if not any(key in worker.listening for worker in slot.workers):
            self._sockets.release(slot.number, key)
        if not any(key in worker.listening for worker in self._fleet.workers):
            self._sockets.forget(key)

    def lend(self) -> None:
        """Make sure that a worker accepts on the sockets of each slot."""
        slots = self._fleet.slots
        for slot in slots:
            borrower = None
            if slot.worker is None:
                others = [other.worker for other in slots if other.worker is not None]
                borrower = slot.lent_to if slot.lent_to in others else next(iter(others), None)
            if borrower is slot.lent_to:
                continue
            if slot.lent_to is not None:
                slot.lent_to.channel.send(Return(slot.number))
            slot.lent_to = borrower
            if borrower is not None:
                for (address, index), sockets in self._sockets.own(slot.number).items():
                    borrower.channel.send(
                        Lend(address, index, slot.number), [sock.fileno() for sock in sockets]
                    )

    def worker_ended(self, worker: Worker) -> None:
        """Note that *worker* accepts on no sockets any more."""
        for slot in self._fleet.slots:
            if slot.lent_to is worker:
                slot.lent_to = None

    def close(self) -> None:
        """Close all sockets."""
        self._sockets.close()
