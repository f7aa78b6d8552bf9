"""The future that a task waits on while it is suspended in a read: it wakes the task directly.

asyncio lets a task await foreign futures: objects that have
``_asyncio_future_blocking`` and the few methods below (see the comment on it in
asyncio/futures.py). The task registers its wake-up with `add_done_callback`. An
`asyncio.Future` would pass it through the loop's queue; a `Waiter` calls it from
the reactor's callback, inside the task's context, so that the task is stepped
immediately.

This is allowed only while no task is running, when `Reactor.direct` is set;
otherwise the wake-up goes through `call_soon`. A context that another thread is in
cannot be entered: then the wake-up is retried a little later. No wake-up is lost.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from silly._engine.native.linux cimport (
    PyContext_Exit,
    PyMethodDef,
    PyObject_CallNoArgs,
    PyObject_CallOneArg,
    enter_context,
    set_slots,
)
from silly._engine.native.reactor cimport Reactor, reactor_of

import asyncio
import contextvars

cdef double RETRY = 0.001  # seconds, between attempts to enter a context that another thread is in

cdef object CancelledError = asyncio.CancelledError


cdef class ForeignFuture:
    """The future protocol that asyncio's tasks use, and the wake-up of the waiting task."""

    cdef int wait(self) except -1:
        """Become pending, to be yielded to a task (again)."""
        self.state = PENDING
        self._asyncio_future_blocking = True
        return 0

    cdef bint is_pending(self) noexcept:
        return self.state == PENDING

    cdef int wake(self, Reactor reactor) except -1:
        """Wake the waiting task: now if no task is running, else soon."""
        self.state = WOKEN
        return self.call_back(reactor)

    cdef int call_back(self, Reactor reactor) except -1:
        """Step the waiting task, now or soon."""
        cdef object callback = self.take_callback()
        cdef object context = self.context
        if callback is None:
            return 0
        self.context = None
        if not reactor.direct:
            self.loop.call_soon(self._call_back, callback, context)
        elif not call_directly(reactor, callback, <PyObject *>self, context):
            self.call_later(callback, context)
        return 0

    cdef void fetch_coroutine(self) noexcept:
        """Fetch what this wakes into the processor's caches, if it is known."""

    cdef object take_callback(self):
        """Return the callback, and forget it."""
        callback, self.callback = self.callback, None
        return callback

    cdef int call_later(self, object callback, object context) except -1:
        """Retry in a moment, because another thread is in *context*."""
        self.loop.call_later(
            RETRY, self._call_back, callback, context, context=contextvars.Context()
        )
        return 0

    def _call_back(self, callback, context):
        """Step the waiting task, in a callback of the loop."""
        if not enter_context(context):
            self.call_later(callback, context)
            return
        try:
            callback(self)
        finally:
            PyContext_Exit(context)

    # ------------------------------------------------ asyncio's future protocol

    # There is no `get_loop`: asyncio takes this instead, and need not make a method of it.
    @property
    def _loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context):
        self.call_when_done(callback, context)

    cdef int call_when_done(self, object callback, object context) except -1:
        if self.callback is not None:
            raise RuntimeError("only one task can wait on this")
        if self.state != PENDING:
            self.loop.call_soon(self._call_back, callback, context)
            return 0
        self.callback = callback
        self.context = context
        return 0

    def remove_done_callback(self, callback):
        if self.callback is None or self.callback != callback:
            return 0
        self.callback = self.context = None
        return 1

    def cancel(self, msg=None):
        if self.state != PENDING:
            return False
        self.state = CANCELLED
        callback = self.take_callback()
        if callback is not None:
            self.loop.call_soon(self._call_back, callback, self.context)
        self.context = msg
        return True

    def result(self):
        if self.state == CANCELLED:
            if self.context is None:
                raise CancelledError()
            raise CancelledError(self.context)
        if self.state == PENDING:
            raise asyncio.InvalidStateError("Result is not set.")
        return None

    def set_result(self, result):
        """Wake the waiting task."""
        if self.state != PENDING:
            raise asyncio.InvalidStateError("it is done already")
        self.wake(reactor_of(self.loop))

    def exception(self):
        self.result()

    def done(self):
        return self.state != PENDING

    def cancelled(self):
        return self.state == CANCELLED


cdef class Waiter(ForeignFuture):
    """The future that one reader waits on."""

    cdef int wake(self, Reactor reactor) except -1:
        cdef ForeignFuture trampoline = self.trampoline
        if trampoline is None:
            return ForeignFuture.wake(self, reactor)
        self.state = WOKEN
        self.trampoline = None
        return trampoline.wake(reactor)

    # What a read yields; anything else awaits it.

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.state != PENDING:
            self.result()
            raise StopIteration
        self._asyncio_future_blocking = True
        return self

    def __repr__(self):
        if self.state != PENDING:
            return "<Waiter, done>"
        return "<Waiter>" if self.purpose is None else f"<{self.purpose!r}>"


cdef int _send(Waiter self, object value, void **out) except -1:
    cdef bint waits = self.state == PENDING
    if waits:
        self._asyncio_future_blocking = True
    else:
        self.result()
    awaited = self if waits else None
    Py_INCREF(awaited)
    out[0] = <void *>awaited
    return waits


cdef PyObject *_next(Waiter self) except? NULL:
    # Without an exception for the end (see read.pyx).
    cdef void *out = NULL
    if _send(self, None, &out):
        return <PyObject *>out
    Py_DECREF(<object>out)
    return NULL


set_slots(Waiter, <void *>_send, <void *>_next)


cdef bint call_directly(
    Reactor reactor,
    object callback,
    PyObject *argument,
    object context,
    PyMethodDef *method=NULL,
) except -1:
    """Call *callback* in *context*, as the loop would; return False if it cannot be entered.

    *argument* is NULL if there is none. If there is a *method*, of *callback*, call that.
    """
    if not enter_context(context):
        return False
    reactor.direct = False
    try:
        try:
            if method != NULL:
                method.ml_meth(callback, <object>argument)
            elif argument == NULL:
                PyObject_CallNoArgs(callback)
            else:
                PyObject_CallOneArg(callback, <object>argument)
        finally:
            PyContext_Exit(context)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        reactor.loop.call_exception_handler(
            {"message": f"Exception in callback {callback!r}", "exception": error}
        )
    finally:
        reactor.direct = True
    return True


cdef Waiter spare_waiter(Reactor reactor):
    """Return a waiter for a read: the one that the last read was done with, or a new one."""
    cdef Waiter waiter = <Waiter>reactor.spare
    if waiter is None:
        waiter = new_waiter(reactor.loop)
        waiter.serves_read = True
    else:
        reactor.spare = None
    return waiter


cpdef Waiter new_waiter(object loop):
    """See `silly._engine.interface.Engine.new_waiter`."""
    cdef Waiter waiter = Waiter.__new__(Waiter)
    waiter.loop = loop
    return waiter
