"""Awaitables whose steps are C: no frame of Python, and no exception for a result."""

from cpython.ref cimport Py_DECREF, PyObject

from silly._engine.native.linux cimport (
    PyType_Modified,
    PyTypeObject,
    raise_given,
    stop_iteration,
)
from silly._engine.native.wanted cimport FAILED


cdef class Stepped:
    """The base of what a coroutine awaits, and that is its own iterator."""

    cdef int step(self, void **out) except -1:
        """Go on; set *out* to the result and return 0, or to what to wait on and return 1.

        Or set it to an exception, and return `FAILED` (see `Read.step`).
        """
        raise NotImplementedError

    cdef object advance(self):
        cdef void *out = NULL
        cdef int kind = self.step(&out)
        result = <object>out
        Py_DECREF(result)
        if kind == FAILED:
            raise result
        if kind == 1:
            return result
        raise StopIteration(result)

    def __await__(self):
        return self  # an iterator, by `_next`


cdef object UNENCODED = object()


cdef class Answering(Stepped):
    """Steps what answers one request; `Handling` asks it for the answer, encoded.

    Its result is `UNENCODED`, if the answer is likely to be one that it can encode.
    """

    cdef bytes encoded(self, Head request):
        """Return the answer, encoded, and set `status`; None: it must be sent in another way."""
        raise NotImplementedError

    cdef object response(self):
        """Return the answer as a response."""
        raise NotImplementedError


cdef class Starter:
    """A handler that is called natively."""

    cdef Answering start(self, Head request, object memo):
        """Begin to answer *request*; None: call the handler.

        *memo* is what it has kept in the connection.
        """
        raise NotImplementedError


cdef int _send(Stepped self, object value, void **out) except -1:
    cdef int kind = self.step(out)
    return raise_given(<PyObject **>out) if kind == FAILED else kind


cdef PyObject *_next(Stepped self) except? NULL:
    # Cython would add a traceback to each StopIteration.
    cdef void *out = NULL
    cdef int kind = self.step(&out)
    if kind == 1:
        return <PyObject *>out
    if kind == FAILED:
        raise_given(<PyObject **>&out)
    else:
        stop_iteration(<PyObject *>out)
    return NULL


def set_slots(kind):
    """Let *kind*, a `Stepped`, be stepped in C; a class of Python does not inherit all of it."""
    cdef PyTypeObject *slots = <PyTypeObject *>kind
    slots.tp_as_async.am_send = <void *>_send
    slots.tp_iternext = <void *>_next
    PyType_Modified(slots)


set_slots(Stepped)
