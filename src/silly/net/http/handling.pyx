"""Calls the handler of requests, and sends its responses; the native `Handling` of `bases.py`.

Most requests and most responses are plain (see plain.pyx). Those are dealt with here, without a
frame of Python but the handler's. A `Handling` is what a connection's coroutine awaits: stepping
it steps what it awaits itself, a read, the handler, or a drain. Everything else ends the wait:
what is to be answered in another way, what failed, what is left of a file that could not be sent
at once, and all of it while somebody observes requests.
"""

from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from cpython.tuple cimport PyTuple_GET_SIZE

from silly._engine.native.linux cimport send_to, take_raised
from silly._engine.native.read cimport Read, new_read, raise_thrown
from silly._engine.native.sending cimport Sending
from silly._engine.native.wanted cimport ALL, DONE, FAILED, NEW
from silly.net.http.parts cimport FilePart
from silly.net.http.plain cimport Answer, Counts, Head, PlainRequests
from silly.net.http.stepped cimport UNENCODED, Answering, Starter, Stepped

from silly._engine.native.sending import drained
from silly.net.http.bases import UNASKED
from silly.net.outcome import crash_of

cdef extern from *:
    """
    /* Returns what to step for an awaitable; NULL without an exception: see PEP 492. */
    static inline PyObject *silly_stepped(PyObject *awaitable) {
        PyAsyncMethods *methods = Py_TYPE(awaitable)->tp_as_async;
        if (PyCoro_CheckExact(awaitable)) return Py_NewRef(awaitable);
        if (methods == NULL || methods->am_await == NULL) return NULL;
        return methods->am_await(awaitable);
    }
    """
    PyObject *stepped "silly_stepped"(object awaitable) noexcept

cdef extern from "Python.h":
    PyObject *call "PyObject_CallOneArg"(object callable, object argument) noexcept
    PyObject *PyErr_Occurred() noexcept

cdef enum:  # what is awaited
    NOTHING = 0
    READ = 1
    HANDLER = 2
    DRAIN = 3

cdef object DRAINED = drained


cdef class Handling(Stepped):
    """Deals with the requests of one connection, until one needs something special."""

    cdef readonly object request  # which is not answered yet ...
    cdef readonly object response  # ... what the handler has returned ...
    cdef readonly object error  # ... or raised
    cdef object connection, conn, handler
    cdef Starter starter  # the handler, if it is one ...
    cdef object memo  # ... and what it keeps
    cdef Sending stream  # the connection, if it is one of this engine ...
    cdef Read read  # ... and what reads from it
    cdef list observers
    cdef tuple watchers
    cdef PlainRequests session
    cdef Counts counts
    cdef object awaited
    cdef unsigned char kind  # of it
    cdef object result  # once the wait is over

    def __cinit__(
        self, connection, conn, PlainRequests session not None, service, list observers not None
    ):
        self.connection = connection
        self.conn = conn
        if isinstance(conn, Sending):
            self.stream = <Sending>conn
            self.read = new_read(self.stream, ALL)
            self.read.state = DONE
        self.session = session
        self.handler = service.handler
        if isinstance(self.handler, Starter):
            self.starter = <Starter>self.handler
        self.counts = service.counts
        self.watchers = service.watchers.own
        self.observers = observers

    cdef int step(self, void **out) except -1:
        cdef PyObject *given = NULL
        cdef object result
        cdef int kind
        while True:
            while self.kind == NOTHING:
                if self.begin():
                    return self.end(out)
            if self.awaited is self.read:
                kind = self.read.step(<void **>&given)
            else:
                kind = send_to(self.awaited, None, &given)
            if kind == 1:
                out[0] = <void *>given
                return 1
            if kind < 0:
                result = take_raised()
            else:
                result = <object>given
                Py_DECREF(result)
                if kind == 0:
                    if self.take(result):
                        return self.end(out)
                    continue
            if self.fail(result):
                return self.end(out)
            Py_INCREF(result)
            out[0] = <void *>result
            return FAILED

    cdef bint begin(self) except -1:
        """Begin with the next request, or to wait for it; return whether the wait is over."""
        cdef object request, awaitable
        cdef PyObject *started
        self.request = self.response = self.error = None
        request = self.session.next(self.conn, self.connection)
        if request is None and not (self.session.is_draining and self.session.taken):
            if self.stream is None:
                return self.await_(READ, self.conn.read())
            self.read.state = NEW
            self.awaited = self.read
            self.kind = READ
            return False
        if request is None or request is False:
            self.result = request
            return True
        self.request = request
        if PyTuple_GET_SIZE(self.watchers) or PyList_GET_SIZE(self.observers):
            self.result = request
            self.response = UNASKED
            return True
        self.kind = HANDLER
        if self.starter is not None:
            try:
                if self.memo is None:
                    self.memo = self.connection.memo
                self.awaited = self.starter.start(<Head>request, self.memo)
            except BaseException as error:  # pragma: no cover - out of memory
                if not self.fail(error):
                    raise
                return True
            if self.awaited is not None:
                return False
        started = call(self.handler, request)
        if started == NULL:
            return self.has_failed()
        awaitable = <object>started
        Py_DECREF(awaitable)
        return self.await_(HANDLER, awaitable)

    cdef bint await_(self, unsigned char kind, object awaitable) except -1:
        """Await *awaitable*; return whether that has failed, and the wait is over."""
        cdef PyObject *iterator = stepped(awaitable)
        self.kind = kind
        if iterator == NULL and PyErr_Occurred() == NULL:
            iterator = stepped(_await(awaitable))
        if iterator == NULL:
            return self.has_failed()
        self.awaited = <object>iterator
        Py_DECREF(self.awaited)
        return False

    cdef bint take(self, object result) except -1:
        """Take what was awaited; return whether the wait is over."""
        cdef unsigned char kind = self.kind
        cdef bytes reply
        cdef object awaited = self.awaited, status = None
        self.awaited = None
        self.kind = NOTHING
        if kind == READ:
            self.session.parse(<bytes?>result)
        elif kind == HANDLER:
            reply = None
            if result is UNENCODED:
                if not self.session.is_draining:
                    reply = (<Answering>awaited).encoded(<Head>self.request)
                    status = (<Answering>awaited).status
                if reply is None:
                    result = (<Answering>awaited).response()
            elif isinstance(result, Answer) and not self.session.is_draining:
                if isinstance((<Answer>result).body, FilePart):
                    return self.send_file(<Answer>result)
                reply = (<Answer>result).encode(<Head>self.request)
                status = (<Answer>result).status
            if reply is None:
                self.result = self.request
                self.response = result
                return True
            self.counts.add((<Head>self.request).method, status)
            self.request = None
            if self.stream is None:
                result = self.conn.write(reply)
            else:
                result = self.stream.write_bytes(reply)
            if result is not DRAINED:
                return self.await_(DRAIN, result)
        return False

    cdef bint send_file(self, Answer answer) except -1:
        """Answer with a file, if all of it can be sent at once; return whether the wait is over."""
        cdef Head request = <Head>self.request
        cdef FilePart part
        cdef bytes head = None
        cdef object drained
        self.result = request
        self.response = answer
        if request.may_be_conditional():
            answer._prepare(request)
        if self.stream is not None and isinstance(answer.body, FilePart):
            part = <FilePart>answer.body
            if part.left == part.size:  # otherwise it was sent already
                head = answer.encode_head(request, part.size)
        if head is None:
            return True
        self.stream.write_bytes(head)
        part.is_begun = True
        if part.left:
            part.send_some(self.stream)
            if part.left:
                return True
        part.file.shut()
        self.counts.add(request.method, answer.status)
        self.result = self.request = self.response = None
        drained = self.stream.drained_or_yield()
        return False if drained is DRAINED else self.await_(DRAIN, drained)

    cdef bint has_failed(self) except -1:
        """Deal with the exception that is set; return True if the handler has raised it."""
        try:
            raise_again()
        except BaseException as error:
            if not self.fail(error):
                raise
        return True

    cdef bint fail(self, error) except -1:
        """Take the *error* that was raised; return whether the handler is to be answered for it."""
        cdef object crash = crash_of(error) if self.kind == HANDLER else None
        self.awaited = None
        self.kind = NOTHING
        if crash is None:
            return False
        self.result = self.request
        self.error = crash
        return True

    cdef int end(self, void **out) except -1:
        cdef object result = self.result
        self.result = None
        Py_INCREF(result)
        out[0] = <void *>result
        return 0

    # ----------------------------------------------------------------------- as awaitable

    def throw(self, kind, value=None, traceback=None):
        throw = getattr(self.awaited, "throw", None)
        try:
            if throw is None:
                raise_thrown(kind, value, traceback)
            if value is None and traceback is None:
                return throw(kind)
            return throw(kind, value, traceback)
        except StopIteration as end:
            is_over = self.take(end.value)
        except BaseException as error:
            is_over = self.fail(error)
            if not is_over:
                raise
        if is_over:
            result, self.result = self.result, None
            raise StopIteration(result)
        return self.advance()

    def close(self):
        close = getattr(self.awaited, "close", None)
        if close is not None:
            close()

    @property
    def cr_await(self):
        return self.awaited


cdef int raise_again() except -1:
    """Raise the exception that is set already."""
    return -1


async def _await(awaitable):
    return await awaitable
