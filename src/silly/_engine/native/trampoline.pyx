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
    PyContext_Exit,
    PyIter_Send,
    PyTypeObject,
    call_two,
    enter_context,
    forbid_making,
)
from silly._engine.native.reactor cimport Reactor
from silly._engine.native.waiter cimport CANCELLED, PENDING, WOKEN, ForeignFuture, Waiter

import asyncio
import sys
from asyncio import tasks

cdef object enter_task = tasks._enter_task  # documented in "Extending asyncio"
cdef object leave_task = tasks._leave_task
# The same on every Python; on the older ones without a frame of Python.
cdef object current_task = (
    asyncio.current_task if sys.version_info >= (3, 12) else tasks._current_tasks.get
)

cdef enum:  # what a trampoline holds
    NOTHING = 0
    WAITER = 1  # the coroutine is in this read
    YIELDED = 2  # for the task, from its last step: what it awaits ...
    RETURNED = 3  # ... or returned ...
    RAISED = 4  # ... or raised


cdef class Trampoline(ForeignFuture):
    cdef object coroutine
    cdef object task
    cdef object held
    cdef unsigned char holds
    cdef unsigned char running  # the coroutine, without the task
    cdef unsigned char interrupted  # cancelled in that time

    # ------------------------------------------- stepping the coroutine directly

    cdef int wake(self, Reactor reactor) except -1:
        cdef PyObject *out = NULL
        cdef object context = self.context
        cdef int result
        self.hold(NOTHING, None)
        if not reactor.direct or self.callback is None or not self.enter(context):
            return ForeignFuture.wake(self, reactor)
        reactor.direct = False
        self.running = True
        try:
            result = PyIter_Send(self.coroutine, None, &out)
            if self.take(result, out) and not self.interrupted:
                return 0
        except BaseException as error:
            self.hold(RAISED, error)
        finally:
            PyContext_Exit(context)
            call_two(leave_task, self.loop, self.task)
            self.running = self.interrupted = False
            reactor.direct = True
        return ForeignFuture.wake(self, reactor)

    cdef bint enter(self, object context) noexcept:
        """Enter the task and its context; tell whether that could be."""
        if not call_two(enter_task, self.loop, self.task):
            return False  # a task is running after all: an eager one (asyncio.eager_task_factory)
        if enter_context(context):
            return True
        call_two(leave_task, self.loop, self.task)
        return False

    cdef bint take(self, int result, PyObject *out) except -1:
        """Take what a step came to; tell whether that is waiting in a read."""
        cdef object outcome = <object>out
        Py_DECREF(outcome)
        if result == 0:
            self.hold(RETURNED, outcome)
        elif not self.park(outcome):
            self.hold(YIELDED, outcome)
        return self.holds == WAITER

    cdef int hold(self, unsigned char holds, object held) except -1:
        self.holds = holds
        self.held = held
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
        self.hold(WAITER, waiter)
        return True

    # --------------------------------------------------- the task's coroutine

    cdef int step(self, object value, PyObject **out) except -1:
        """Go on, in a step of the task: 0 for returned, 1 for yielded."""
        cdef unsigned char holds = self.holds
        cdef object held = self.held
        cdef int result
        if holds == WAITER:  # called back for an interruption that was taken back
            return self.wait_again(out)
        if holds != NOTHING:
            self.hold(NOTHING, None)
            if holds != YIELDED:
                self.task = None
            if holds == RAISED:
                raise held
            Py_INCREF(held)
            out[0] = <PyObject *>held
            return holds == YIELDED
        if self.task is None:
            self.task = current_task(self.loop)
        try:
            result = PyIter_Send(self.coroutine, value, out)
        except BaseException:
            self.task = None  # the end: nothing is left for the collector of cycles
            raise
        if result == 0:
            self.task = None
        elif self.park(<object>out[0]):
            Py_DECREF(<object>out[0])
            return self.wait_again(out)
        return result

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
        try:
            if value is None and traceback is None:
                yielded = self.coroutine.throw(kind)
            else:
                yielded = self.coroutine.throw(kind, value, traceback)
        except BaseException:
            self.task = None
            self.wake_waiting()
            raise
        if self.park(yielded):
            self.wait()
            return self
        return yielded

    cdef int drop(self) except -1:
        """Wait for nothing, and have nothing for the task."""
        if self.holds == WAITER:
            (<Waiter>self.held).trampoline = None
        return self.hold(NOTHING, None)

    def close(self):
        self.drop()
        self.coroutine.close()
        self.wake_waiting()

    cdef int wake_waiting(self) except -1:
        """Wake the task, if it waits for a coroutine that somebody else has ended."""
        cdef object callback = self.callback
        if callback is not None:
            self.callback = None
            self.state = WOKEN
            self.loop.call_soon(self._call_back, callback, self.context)
        return 0

    # --------------------------------------------------- the task's future

    def cancel(self, msg=None):
        if self.running:
            self.interrupted = True
            return False
        if self.holds == WAITER:
            (<Waiter>self.held).state = CANCELLED
        return ForeignFuture.cancel(self, msg)

    def __repr__(self):
        if self.holds == WAITER:
            return repr(self.held)
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


def stepped(coroutine, loop):
    """See `silly._engine.interface.Engine.stepped`."""
    cdef Trampoline trampoline = Trampoline.__new__(Trampoline)
    trampoline.coroutine = coroutine
    trampoline.loop = loop
    return trampoline


cdef PyTypeObject *_slots = <PyTypeObject *>Trampoline
_slots.tp_as_async.am_send = <void *>_send
forbid_making(_slots)
