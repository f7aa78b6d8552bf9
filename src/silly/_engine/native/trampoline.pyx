"""Runs a coroutine for a task, and steps it without the task where it can.

A task makes much ado about each wait: it looks up what it was given, leaves a
new callback with it, and asks it for its result when it is called back. A
`Trampoline` stands between a task and the coroutine that the task would run. To
the task it is that coroutine; and while the coroutine waits in a read, it is
also the one future that the task waits on. When the bytes are there and no task
is running, the coroutine is stepped from here, as the task would have done it
(in its context, as `asyncio.current_task`); if it then waits in a read again,
the task has missed nothing. Whatever else it does (awaits anything else,
returns, raises) is kept, the task is called back, and asks for it.

So the task stays a real `asyncio.Task`, and all that can be done to a task
works. Of cancellation: it reaches the trampoline as that of the future that the
task waits on. While the coroutine runs, `cancel` refuses, whereupon the task
notes that it must be cancelled at its next step; it is given that step as soon
as the coroutine waits again.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from silly._engine.native.linux cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyIter_Send,
    PyType_Modified,
    PyTypeObject,
)
from silly._engine.native.reactor cimport Reactor
from silly._engine.native.waiter cimport CANCELLED, PENDING, WOKEN, Waiter

import asyncio
from asyncio import tasks

cdef object enter_task = tasks._enter_task  # documented in "Extending asyncio"
cdef object leave_task = tasks._leave_task
cdef object current_task = asyncio.current_task

cdef enum:  # what the last step of the coroutine came to
    NOTHING = 0  # that is for the task
    YIELDED = 1
    RETURNED = 2
    RAISED = 3


cdef class Trampoline(Waiter):
    cdef object coroutine
    cdef object task
    cdef Waiter waiting_for  # the read that the coroutine waits in
    cdef object outcome
    cdef unsigned char kind  # of the outcome
    cdef bint running  # the coroutine, without the task
    cdef bint interrupted  # cancelled in that time

    def __init__(self, coroutine):
        self.coroutine = coroutine

    # ------------------------------------------- stepping the coroutine directly

    cdef int wake(self, Reactor reactor) except -1:
        cdef PyObject *out = NULL
        cdef object context = self.context
        cdef int kind
        self.waiting_for = None
        if not reactor.direct or self.callback is None:
            self.state = WOKEN
            return self.call_back(reactor)
        reactor.direct = False
        self.running = True
        try:
            enter_task(self.loop, self.task)
            PyContext_Enter(context)
            try:
                kind = PyIter_Send(self.coroutine, None, &out)
                if kind == 1 and self.park(<object>out):
                    Py_DECREF(<object>out)
                    if not self.interrupted:
                        return 0
                elif kind == 1:
                    self.keep(YIELDED, out)
                else:
                    self.keep(RETURNED, out)
            except BaseException as error:
                self.kind = RAISED
                self.outcome = error
            finally:
                PyContext_Exit(context)
                leave_task(self.loop, self.task)
        finally:
            self.running = self.interrupted = False
            reactor.direct = True
        self.state = WOKEN
        return self.call_back(reactor)

    cdef int keep(self, unsigned char kind, PyObject *out) except -1:
        self.kind = kind
        self.outcome = <object>out
        Py_DECREF(self.outcome)
        return 0

    cdef bint park(self, object awaited) except -1:
        """Wait for *awaited*, if that is a read of our loop."""
        cdef Waiter waiter
        if type(awaited) is not Waiter:
            return False
        waiter = <Waiter>awaited
        if waiter.loop is not self.loop or waiter.state != PENDING:
            return False
        waiter._asyncio_future_blocking = False
        waiter.trampoline = self
        self.waiting_for = waiter
        return True

    # --------------------------------------------------- the task's coroutine

    cdef int step(self, object value, PyObject **out) except -1:
        """Go on, in a step of the task: 0 for returned, 1 for yielded."""
        cdef int kind = self.kind
        cdef object outcome
        if kind != NOTHING:
            outcome, self.outcome = self.outcome, None
            self.kind = NOTHING
            if kind == RAISED:
                raise outcome
            Py_INCREF(outcome)
            out[0] = <PyObject *>outcome
            return kind == YIELDED
        if self.waiting_for is not None:  # called back for an interruption that was taken back
            return self.wait_again(out)
        if self.task is None:
            self.task = current_task()
            self.loop = None if self.task is None else self.task.get_loop()
        kind = PyIter_Send(self.coroutine, value, out)
        if kind == 1 and self.park(<object>out[0]):
            Py_DECREF(<object>out[0])
            return self.wait_again(out)
        return kind

    cdef int wait_again(self, PyObject **out) except -1:
        self.wait()
        Py_INCREF(self)
        out[0] = <PyObject *>self
        return 1

    cdef object advance(self, object value):
        cdef PyObject *out = NULL
        cdef int kind = self.step(value, &out)
        result = <object>out
        Py_DECREF(result)
        if kind == 1:
            return result
        raise StopIteration(result)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.advance(None)

    def send(self, value):
        return self.advance(value)

    def throw(self, kind, value=None, traceback=None):
        self.drop()
        if value is None and traceback is None:
            yielded = self.coroutine.throw(kind)
        else:
            yielded = self.coroutine.throw(kind, value, traceback)
        if self.park(yielded):
            self.wait()
            return self
        return yielded

    cdef int drop(self) except -1:
        """Wait for nothing, and have nothing for the task."""
        if self.waiting_for is not None:
            self.waiting_for.trampoline = None
            self.waiting_for = None
        self.kind = NOTHING
        self.outcome = None
        return 0

    def close(self):
        self.drop()
        self.coroutine.close()

    # --------------------------------------------------- the task's future

    def cancel(self, msg=None):
        if self.running:
            self.interrupted = True
            return False
        if self.waiting_for is not None:
            self.waiting_for.state = CANCELLED
        return Waiter.cancel(self, msg)

    def __repr__(self):
        if self.waiting_for is not None:
            return repr(self.waiting_for)
        return f"<Trampoline of {self.coroutine!r}>"

    # ------------------------------------------------- what others ask coroutines

    @property
    def __name__(self):
        return self.coroutine.__name__

    @property
    def __qualname__(self):
        return self.coroutine.__qualname__

    @property
    def cr_code(self):
        return self.coroutine.cr_code

    @property
    def cr_frame(self):
        return self.coroutine.cr_frame

    @property
    def cr_running(self):
        return self.coroutine.cr_running

    @property
    def cr_suspended(self):
        return self.coroutine.cr_suspended

    @property
    def cr_await(self):
        return self.coroutine.cr_await

    @property
    def cr_origin(self):
        return self.coroutine.cr_origin


cdef int _send(Trampoline self, object value, PyObject **out) except -1:
    return self.step(value, out)


cdef PyTypeObject *_slots = <PyTypeObject *>Trampoline
_slots.tp_as_async.am_send = <void *>_send
PyType_Modified(_slots)
