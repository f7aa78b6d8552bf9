"""Scheduling callbacks in the loop that waits in the reactor.

A new task asks its loop to call its first step soon. For the task of an accepted connection
that would be a callback, and a pass of the loop, for a handler that the reactor can start at
once. So while the engine makes such a task, `call_soon` leaves the step to the reactor.
"""

from silly._engine.native.reactor cimport Reactor, wait_inside

import asyncio

cdef object Handle = asyncio.Handle
cdef object stock_call_soon = asyncio.BaseEventLoop.call_soon
cdef object stock_stop = asyncio.BaseEventLoop.stop

cdef Reactor catching = None  # the reactor to leave the first step of the next task to


cdef class Scheduling:
    """A base of the loop: what tasks and futures call most, without calls of Python functions."""

    cdef public bint _closed, _debug  # set by the loop's other bases

    def call_soon(self, callback, *args, context=None):
        """See `asyncio.loop.call_soon`."""
        if catching is not None and catching.loop is self:
            catching.first_step = callback
            catching.first_context = context
            return stop_catching()
        if self._closed or self._debug:
            return stock_call_soon(self, callback, *args, context=context)
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def get_debug(self):
        """See `asyncio.loop.get_debug`."""
        return self._debug

    def stop(self):
        """See `asyncio.loop.stop`; called by a handler, it ends the wait in the reactor."""
        stock_stop(self)
        reactor = getattr(self, "_silly_reactor", None)
        if reactor is not None:
            (<Reactor>reactor).leave()


wait_inside(Scheduling)


cdef int catch_first_step(Reactor reactor) except -1:
    """Leave what is scheduled next to *reactor*, instead of its loop."""
    global catching
    catching = reactor
    return 0


cdef int stop_catching() except -1:
    global catching
    catching = None
    return 0
