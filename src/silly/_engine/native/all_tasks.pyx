"""Lists the tasks of handlers in `asyncio.all_tasks`, without an entry for each.

Until Python 3.14, asyncio keeps references to all tasks in a `weakref.WeakSet`. For each task, that
costs two calls of functions in Python and about 100 bytes. The task of a trampoline is listed by
that instead: trampolines are linked to each other, as all tasks are since 3.14.
"""

from cpython.ref cimport PyObject

import weakref
from asyncio import tasks


cdef class Listed(ForeignFuture):
    """What a task runs, and is listed by; the base of `Trampoline`.

    It is unlinked before any part of it is freed: that may run other code.
    """

    cdef int link(self) except -1:
        if self.newer == NULL:
            self.older = _ends.older
            self.newer = <PyObject *>_ends
            (<Listed>self.older).newer = (<Listed>self.newer).older = <PyObject *>self
        return 0

    cdef int unlink(self) except -1:
        if self.newer != NULL:
            (<Listed>self.older).newer = self.newer
            (<Listed>self.newer).older = self.older
            self.older = self.newer = NULL
        return 0


cdef Listed _ends = Listed.__new__(Listed)  # is before the oldest and after the newest
_ends.older = _ends.newer = <PyObject *>_ends


cdef Listed expected = None  # what the task that is made now runs, or None: its maker does not say


cdef int expect(Listed trampoline) noexcept:
    """Note that the next task runs *trampoline*: it will not be asked."""
    global expected
    expected = trampoline
    return 0


cdef list listed_tasks():
    # No other code runs meanwhile: nothing here is allocated that the garbage collector counts.
    cdef list found = []
    cdef PyObject *each = _ends.newer
    while each != <PyObject *>_ends:
        if (<Listed>each).task is not None:
            found.append((<Listed>each).task)
        each = (<Listed>each).newer
    return found


class AllTasks(weakref.WeakSet):
    """asyncio's references to all tasks, and what is linked."""

    def add(self, task):
        cdef Listed listed = expected
        expect(None)
        if listed is None:
            coroutine = getattr(task, "_coro", None)
            if not isinstance(coroutine, Listed):
                weakref.WeakSet.add(self, task)
                return
            listed = <Listed>coroutine
            # Taken for its task: one that was made meanwhile (by a finalizer).
            if listed.task is not None and listed.task is not task:
                weakref.WeakSet.add(self, listed.task)
        listed.task = task
        listed.link()

    def __iter__(self):
        yield from listed_tasks()
        yield from weakref.WeakSet.__iter__(self)

    def __len__(self):
        return len(listed_tasks()) + weakref.WeakSet.__len__(self)

    def __contains__(self, task):
        return weakref.WeakSet.__contains__(self, task) or task in listed_tasks()


def list_with_trampolines():
    """From now on, let asyncio's set of all tasks be an `AllTasks`."""
    for name in ("_all_tasks", "_scheduled_tasks"):  # in Python 3.11; in later ones
        all_tasks = getattr(tasks, name, None)
        if type(all_tasks) is weakref.WeakSet:
            all_tasks.__class__ = AllTasks
