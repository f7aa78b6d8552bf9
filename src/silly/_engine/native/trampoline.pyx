"""Runs a coroutine for a task, and steps it without the task when possible.

The native version of `silly._engine.trampoline`, which explains the idea. Here, a task
could wait on a `Waiter` directly, but it does much bookkeeping for each wait: it
inspects the future, registers a new callback, and fetches the result when it is called
back. A trampoline saves that.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from silly._engine.native.all_tasks cimport Listed, expect
from silly._engine.native.linux cimport (
    CACHE_LINE,
    METH_O,
    Py_REFCNT,
    PyCFunction_CheckExact,
    PyCFunction_New,
    PyCFunctionObject,
    PyMethodDef,
    PyObject_Call,
    PyTypeObject,
    _PyType_Lookup,
    call_two,
    discard,
    enter_context,
    fetch,
    forbid_instantiation,
    leave_context,
    raise_given,
    send_to,
    set_default,
    take_raised,
)
from silly._engine.native.reactor cimport Reactor, Source, reactor_of
from silly._engine.native.scheduling cimport catch_first_step, stop_catching
from silly._engine.native.waiter cimport (
    CANCELLED,
    PENDING,
    WOKEN,
    ForeignFuture,
    Waiter,
    call_directly,
    new_waiter,
)
from silly._engine.native.wanted cimport FAILED, Wanted

import asyncio
import sys
from asyncio import tasks

# Documented in "Extending asyncio"; `silly._engine.assumptions` reports if they are missing.
cdef object enter_task = getattr(tasks, "_enter_task", None)
cdef object leave_task = getattr(tasks, "_leave_task", None)
# On older versions of Python, this avoids a Python call.
cdef object current_task = (
    asyncio.current_task if sys.version_info >= (3, 12) else tasks._current_tasks.get
)

# What the two do, without the calls: until 3.13, they are kept in a dictionary by loop.
cdef dict current_tasks = getattr(tasks, "_current_tasks", None)

# What an `asyncio.Task` is woken with is a method of its own, in C. It is an object that takes
# memory, and is made again when it is needed.
cdef PyMethodDef *wakeup = NULL  # that method
cdef object WAKEUP = object()  # stands for it

cdef object Future = asyncio.Future
cdef object Task = asyncio.Task
# Its methods, which are not looked up again for each task.
cdef object add_done_callback = getattr(Task, "add_done_callback", None)
cdef object remove_done_callback = getattr(Task, "remove_done_callback", None)
cdef object is_done = getattr(Task, "done", None)
# Whether a new task calls nothing in Python before it schedules its first step.
cdef bint CATCHES = type(Task.__init__) is type(object.__init__)
cdef object stock_create_task = asyncio.BaseEventLoop.create_task

cdef enum:  # kinds of outcome
    NO_OUTCOME = 0
    WAITER = 1  # the coroutine waits on this, which may be a read
    YIELDED = 2  # for the task, from the coroutine's last step: it yielded this ...
    RETURNED = 3  # ... or returned it ...
    RAISED = 4  # ... or raised it

cdef enum:  # whether its coroutine is running, without the task
    RUNNING = 1
    CANCELLED_MEANWHILE = 2

cdef enum:  # what `ended` is
    ADDED = 0  # one of the task's callbacks
    DUE = 1  # to be added when the task ends
    NEXT = 2  # to be called after the task's last step, which is running

cdef enum:
    COROUTINE = 256  # bytes of a coroutine with its frame, about
    AWAITED = 2  # references to what a step yielded if nothing else refers to it


cdef class Trampoline(Listed):
    cdef object coroutine
    cdef object ended  # a callback of the task ...
    cdef object ended_context  # ... and its context
    cdef object outcome

    def __dealloc__(self):
        self.unlink()

    # ------------------------------------------- stepping the coroutine directly

    cdef int wake(self, Reactor reactor) except -1:
        cdef PyObject *out = NULL
        cdef object context = self.context
        cdef object task = self.task  # the handler may use this trampoline, which forgets its task
        cdef int result
        cdef bint waits
        self.set_outcome(NO_OUTCOME, None)
        if not reactor.direct or self.callback is None or not self.enter(context):
            return ForeignFuture.wake(self, reactor)
        reactor.direct = False
        self.running = RUNNING
        result = send_to(self.coroutine, None, &out)
        waits = self.take_outcome(result, out) and self.running == RUNNING
        leave_context(context)
        leave(self.loop, task)
        self.running = False
        reactor.direct = True
        if waits:
            return 0
        if self.outcome_kind == YIELDED:
            return ForeignFuture.wake(self, reactor)
        return self.end(reactor)

    cdef void fetch_coroutine(self) noexcept:
        fetch(<const void *>self.coroutine, COROUTINE)
        fetch(<const void *>self.task, CACHE_LINE)
        fetch(<const void *>self.context, CACHE_LINE)

    cdef int end(self, Reactor reactor) except -1:
        """Wake the task for its last step, and call `ended` without a turn of the loop."""
        cdef object task = self.task
        if self.ending != DUE or task is None:
            return ForeignFuture.wake(self, reactor)
        self.ending = NEXT
        try:
            ForeignFuture.wake(self, reactor)
        finally:
            # If the step was put off, or another thread is in the context, the loop calls it.
            if is_done(task) is not True or not call_starting(
                reactor, self.ended, task, self.ended_context
            ):
                self.add_ended(task)
        return 0

    cdef int add_ended(self, object task) except -1:
        """Have the loop call `ended` when *task* is done, before callbacks of the handler's."""
        cdef list others = list(getattr(task, "_callbacks", None) or ())  # may be the task's own
        self.ending = ADDED
        add_done_callback(task, self.ended, context=self.ended_context)
        for other, _ in others:
            remove_done_callback(task, other)
        for other, context in others:
            add_done_callback(task, other, context=context)
        return 0

    cdef bint enter(self, object context) noexcept:
        """Enter the task and its context; return whether this succeeded."""
        if not enter(self.loop, self.task):  # pragma: no cover - from Python 3.12 on
            return False  # an eager task is running (asyncio.eager_task_factory)
        if enter_context(context):
            return True
        leave(self.loop, self.task)
        return False

    cdef bint take_outcome(self, int result, PyObject *out) noexcept:
        """Store the outcome of a step; return whether the coroutine waits in a read."""
        cdef object outcome
        if result < 0:
            self.set_outcome(RAISED, take_raised())
            return False
        outcome = <object>out
        Py_DECREF(outcome)
        if result == 0:
            self.set_outcome(RETURNED, outcome)
        elif self.park(outcome):
            return True
        else:
            self.set_outcome(YIELDED, outcome)
        return False

    cdef void set_outcome(self, unsigned char outcome_kind, object outcome) noexcept:
        self.outcome_kind = outcome_kind
        self.outcome = outcome

    cdef bint park(self, object awaited) noexcept:
        """Wait on *awaited*, if it is a `Waiter` of the same loop; return whether it is.

        If it is a read's, the read wakes this itself, and the waiter serves another read: so
        connections that wait hold none.
        """
        cdef Waiter waiter
        cdef Wanted read
        if type(awaited) is not Waiter:
            return False
        waiter = <Waiter>awaited
        if waiter.loop is not self.loop or waiter.state != PENDING:
            return False
        waiter._asyncio_future_blocking = False
        if not waiter.serves_read:
            waiter.trampoline = self
            self.set_outcome(WAITER, waiter)
            return True
        read = <Wanted>waiter.purpose
        read.waiter = self
        waiter.purpose = None
        self.set_outcome(WAITER, read)
        if Py_REFCNT(waiter) <= AWAITED:
            (<Source>read.stream).reactor.spare = waiter
        return True

    cdef bint is_pending(self) noexcept:
        """Return whether the read that it waits for is to wake it."""
        return self.outcome_kind == WAITER and self.state != CANCELLED

    # ------------------------------------------ as the coroutine of the task

    cdef int step(self, object value, PyObject **out) except -1:
        """Resume the coroutine, in a step of the task.

        Return 0 if it returned, 1 if it yielded, and `FAILED` if it raised what *out* is set to:
        raising it here would cost a traceback for each function.
        """
        cdef unsigned char outcome_kind = self.outcome_kind
        cdef object outcome = self.outcome
        cdef int result
        # It is called back for a cancellation that was undone (`uncancel`).
        if outcome_kind == WAITER:  # pragma: no cover - from Python 3.13 on
            return self.wait_again(out)
        if outcome_kind != NO_OUTCOME:
            self.set_outcome(NO_OUTCOME, None)
            if outcome_kind != YIELDED:
                self.leave_task()
            Py_INCREF(outcome)
            out[0] = <PyObject *>outcome
            return FAILED if outcome_kind == RAISED else outcome_kind == YIELDED
        if self.task is None:
            self.task = current_task(self.loop)
        result = send_to(self.coroutine, value, out)
        if result < 0:
            outcome = take_raised()
            Py_INCREF(outcome)
            out[0] = <PyObject *>outcome
        if result != 1:  # finished
            self.leave_task()
            return FAILED if result < 0 else 0
        outcome = <object>out[0]
        Py_DECREF(outcome)
        if self.park(outcome):
            return self.wait_again(out)
        Py_INCREF(outcome)
        return 1

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
        if kind == FAILED:
            raise result
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
        self.forget_outcome()
        try:
            if value is None and traceback is None:
                yielded = self.coroutine.throw(kind)
            else:
                yielded = self.coroutine.throw(kind, value, traceback)
        except BaseException:
            self.leave_task()
            self.wake_task()
            raise
        if self.park(yielded):
            self.wait()
            return self
        return yielded

    cdef int forget_outcome(self) except -1:
        """Discard the outcome; stop waiting."""
        if self.outcome_kind == WAITER and type(self.outcome) is Waiter:
            (<Waiter>self.outcome).trampoline = None
        self.set_outcome(NO_OUTCOME, None)
        return 0

    def close(self):
        self.forget_outcome()
        self.coroutine.close()
        self.wake_task()

    cdef int wake_task(self) except -1:
        """Wake the task, if it waits for a coroutine that something else has ended."""
        cdef object callback = self.take_callback()
        if callback is not None:
            self.state = WOKEN
            self.loop.call_soon(self._call_back, callback, self.context)
        return 0

    # ---------------------------------------------- as the future of the task

    def cancel(self, msg=None):
        if self.running:
            self.running = CANCELLED_MEANWHILE
            return False
        if self.outcome_kind == WAITER and type(self.outcome) is Waiter:
            (<Waiter>self.outcome).state = CANCELLED
        return ForeignFuture.cancel(self, msg)

    def __repr__(self):
        if self.outcome_kind == WAITER:
            return repr(self.outcome) if type(self.outcome) is Waiter else f"<{self.outcome!r}>"
        return f"<Trampoline of {self.coroutine!r}>"

    cdef int call_when_done(self, object callback, object context) except -1:
        global wakeup
        ForeignFuture.call_when_done(self, callback, context)
        if (
            self.callback is not None
            and PyCFunction_CheckExact(callback)
            and (<PyCFunctionObject *>callback).m_self == <PyObject *>self.task
            and (<PyCFunctionObject *>callback).m_ml.ml_flags == METH_O
            and type(self.task) is Task
        ):
            wakeup = (<PyCFunctionObject *>callback).m_ml
            self.callback = WAKEUP
        return 0

    cdef int call_back(self, Reactor reactor) except -1:
        cdef object done
        cdef object task = self.task
        cdef object context = self.context
        if self.callback is not WAKEUP or not reactor.direct:
            return ForeignFuture.call_back(self, reactor)
        # A task only asks the future for its result: one of asyncio's is asked without a call.
        done = done_future(reactor)
        self.callback = self.context = None
        if not call_directly(reactor, task, <PyObject *>done, context, wakeup):
            self.call_later(PyCFunction_New(wakeup, task), context)
        return 0

    cdef object take_callback(self):
        self.make_callback()
        return ForeignFuture.take_callback(self)

    cdef int make_callback(self) except -1:
        if self.callback is WAKEUP:
            self.callback = PyCFunction_New(wakeup, self.task)
        return 0

    cdef int leave_task(self) except -1:
        """Forget the task, to leave no cycle, and have `ended` called when it is done."""
        if self.ending == DUE and self.task is not None:
            self.add_ended(self.task)
        self.make_callback()  # it may still be a method of the task
        self.task = None
        return self.unlink()

    # ----------------------------------------------- attributes of coroutines

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
    cdef int kind = self.step(value, out)
    return raise_given(out) if kind == FAILED else kind


cdef object done_future(Reactor reactor):
    if reactor.done is None:
        reactor.done = Future(loop=reactor.loop)
        reactor.done.set_result(None)
    return reactor.done


cdef bint enter(object loop, object task) noexcept:
    """Make *task* the current one of *loop*; return False if there is one already."""
    if current_tasks is None:  # pragma: no cover - from Python 3.12 on
        return call_two(enter_task, loop, task)
    return set_default(current_tasks, loop, task) == <PyObject *>task


cdef void leave(object loop, object task) noexcept:
    if current_tasks is None:  # pragma: no cover - from Python 3.12 on
        call_two(leave_task, loop, task)
    else:
        discard(current_tasks, loop)


def start_task(loop, coroutine, ended, name, context, ended_context):
    """See `silly._engine.interface.Engine.start_task`."""
    cdef Trampoline trampoline = Trampoline.__new__(Trampoline)
    trampoline.coroutine = coroutine
    trampoline.loop = loop
    trampoline.ended = ended
    trampoline.ended_context = ended_context
    cdef Reactor reactor = reactor_of(loop)
    if creates_tasks_itself(reactor):
        task = new_task(reactor, trampoline, name, context)
    else:
        task = loop.create_task(trampoline, name=name, context=context)
        if type(task) is not Task or task.done() or task.get_coro() is not trampoline:
            # A task factory's: it may do more than run the trampoline, or has done so.
            task.add_done_callback(ended, context=ended_context)
            return task
    trampoline.task = task
    trampoline.ending = DUE
    return task


cdef object new_task(Reactor reactor, Trampoline trampoline, object name, object context):
    cdef dict options = reactor.task_options
    if context is not None or options is None or reactor.task_name is not name:
        options = {"loop": reactor.loop, "name": name}
        if context is not None:
            options["context"] = context
        else:  # as for most: making the dictionary costs more than keeping it
            reactor.task_options = options
            reactor.task_name = name
    if not (CATCHES and reactor.starts_directly):
        return PyObject_Call(Task, (trampoline,), options)
    catch_first_step(reactor)
    expect(trampoline)
    try:
        return PyObject_Call(Task, (trampoline,), options)
    finally:
        expect(None)
        stop_catching()


cdef bint creates_tasks_itself(Reactor reactor) except -1:
    """Return whether the `create_task` of the loop only makes an `asyncio.Task`, in Python."""
    cdef object kind = type(reactor.loop)
    return (
        _PyType_Lookup(<PyTypeObject *>kind, "create_task") == <PyObject *>stock_create_task
        and "create_task" not in reactor.loop_attributes
        and reactor.loop_attributes.get("_task_factory", False) is None
    )


cdef bint call_starting(
    Reactor reactor, object callback, object argument, object context
) except -1:
    """Do what `call_directly` does, then the first step of a task that was started meanwhile."""
    cdef object step, step_context
    cdef bint called
    reactor.starts_directly = True
    try:
        called = call_directly(reactor, callback, <PyObject *>argument, context)
    finally:
        reactor.starts_directly = False
        step, reactor.first_step = reactor.first_step, None
        step_context, reactor.first_context = reactor.first_context, None
        if step is not None and not call_directly(reactor, step, NULL, step_context):
            # Another thread is in the context, which is as new as the task.
            reactor.loop.call_soon(step, context=step_context)  # pragma: no cover
    return called


cdef class Callback(ForeignFuture):
    """Calls a function when it is woken, instead of a task."""

    cdef int call_back(self, Reactor reactor) except -1:
        cdef object callback = self.callback
        cdef object context = self.context
        if callback is None or not reactor.direct:
            return ForeignFuture.call_back(self, reactor)
        self.callback = self.context = None
        if not call_starting(reactor, callback, self, context):
            # Another thread is in the context, which only the engine has.
            self.call_later(callback, context)  # pragma: no cover
        return 0


def new_callback(loop, callback, context):
    """See `silly._engine.interface.Engine.new_callback`."""
    cdef Callback future = Callback.__new__(Callback)
    future.loop = loop
    future.callback = callback
    future.context = context
    return future


def rehearse(loop):
    """See `silly._engine.assumptions.Rehearse`."""
    cdef Reactor reactor = reactor_of(loop)
    cdef Waiter waiter = new_waiter(loop)
    del loop._silly_reactor  # leave no cycle
    reactor.direct = True

    def wait():
        waiter.wait()
        return waiter

    def step(_):
        waiter.wake(reactor)

    return wait, step


cdef PyTypeObject *_slots = <PyTypeObject *>Trampoline
_slots.tp_as_async.am_send = <void *>_send
forbid_instantiation(_slots)
forbid_instantiation(<PyTypeObject *>Callback)
