"""One request to an application, and the most usual response to it; the native `bases.py`.

Most applications answer with two messages: a start with a list of fields, and one whole body.
These are taken here, and sent as one piece. Everything else is left to `Exchange`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

from silly._engine.native.linux cimport (
    PyCFunction_New,
    PyContext_Enter,
    PyContext_Exit,
    PyIter_Send,
    PyMethodDescrObject,
    PyUnicode_IS_COMPACT_ASCII,
)
from silly.net.asgi.scopes cimport Scopes, new_scopes
from silly.net.http.plain cimport Answer, Head, checked_status, date, new, status_line
from silly.net.http.stepped cimport UNENCODED, Answering, Starter

from asyncio import iscoroutine

from silly._engine.native.sending import drained as DRAINED
from silly.net.http.stepped import set_slots

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    bint PyCoro_CheckExact(object value) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    const void *PyUnicode_DATA(object text) noexcept
    Py_ssize_t references "Py_REFCNT"(PyObject *counted) noexcept
    object PyMethod_New(object function, object owner)

cdef extern from "Python.h":  # of references that are borrowed
    PyObject *pair_of "PyList_GET_ITEM"(list fields, Py_ssize_t at) noexcept
    bint is_tuple "PyTuple_CheckExact"(PyObject *pair) noexcept
    Py_ssize_t tuple_size "PyTuple_GET_SIZE"(PyObject *pair) noexcept
    PyObject *part "PyTuple_GET_ITEM"(PyObject *pair, Py_ssize_t at) noexcept
    bint is_bytes "PyBytes_CheckExact"(PyObject *value) noexcept
    const char *data_of "PyBytes_AS_STRING"(PyObject *value) noexcept
    Py_ssize_t size_of "PyBytes_GET_SIZE"(PyObject *value) noexcept

cdef extern from *:
    """
    #define SILLY_ONES UINT64_C(0x0101010101010101)
    """
    const uint64_t ONES "SILLY_ONES"

cdef enum:
    JOINED = 65536  # bytes: a longer body is not copied behind its head
    DIGITS_OF_SIZE = 20

cdef struct About:  # fields
    Py_ssize_t length  # what they say of the body; -1: nothing
    bint has_date

cdef str TYPE = "type", STATUS = "status", HEADERS = "headers"  # as those of all programs: interned
cdef str BODY = "body", MORE_BODY = "more_body"
cdef str ROUTE = "route"  # of frameworks
cdef object NO = False  # `<PyObject *>False` would be a number
cdef bytes NOTHING = b""


cdef class Cycle(Answering):
    """Steps an application through one request; the base of `Exchange`."""

    cdef object __weakref__
    cdef public object _request, scope, _owner, _watching
    cdef public bint is_complete, is_handed_over, _is_over, _has_received
    cdef readonly bint _is_running  # the application itself, not a task of its
    cdef Scopes scopes  # which has made it; None: `ApplicationHandler` has
    cdef object app, coroutine, context
    cdef bint is_slow  # something was left to `Exchange`
    cdef bint is_asked  # for `UNENCODED`, by whoever steps it
    # What was taken of the response, of which there may be no object yet.
    cdef bytes text  # its fields, encoded
    cdef About about
    cdef bytes body
    cdef object made, decided  # `_response` and `outcome`, once they are set or asked for
    cdef object to_receive, to_send  # what the application calls

    def __init__(self, owner, app, Head request not None, scope):
        self._owner = owner
        self.app = app
        self._request = request
        self.scope = scope

    @property
    def _response(self):
        cdef RawAnswer response
        if self.made is None and self.text is not None:
            response = <RawAnswer>new(RESPONSE)
            response.status = self.status
            response.text = self.text
            response.about = self.about
            response.fields = fields_of(self.text)
            response.body = NOTHING if self.body is None else self.body
            self.made = response
        return self.made

    @_response.setter
    def _response(self, value):
        self.made = value

    @property
    def outcome(self):
        if self.decided is None and self.body is not None:
            self.decided = self._response
        return self.decided

    @outcome.setter
    def outcome(self, value):
        self.decided = value

    def send(self, message):
        if not self.is_slow and type(message) is dict and self.take(<dict>message):
            return DRAINED
        self.is_slow = True
        return self._send(message)

    cdef bint take(self, dict message) except -1:
        """Take a *message* of the usual kind; return whether it was one."""
        cdef PyObject *key
        cdef PyObject *value
        cdef PyObject *kind = NULL
        cdef PyObject *status = NULL
        cdef PyObject *fields = NULL
        cdef PyObject *body = NULL
        cdef Py_ssize_t at = 0
        while PyDict_Next(message, &at, &key, &value):
            if key == <PyObject *>TYPE:
                kind = value
            elif key == <PyObject *>STATUS:
                status = value
            elif key == <PyObject *>HEADERS:
                fields = value
            elif key == <PyObject *>BODY:
                body = value
            elif key != <PyObject *>MORE_BODY or value != <PyObject *>NO:
                return False
        if kind == NULL:
            return False
        if self.text is None:
            return (
                status != NULL and fields != NULL
                and is_text(<object>kind, b"http.response.start", 19)
                and self.take_start(<object>status, <object>fields)
            )
        return (
            body != NULL and is_text(<object>kind, b"http.response.body", 18)
            and self.take_body(<object>body)
        )

    cdef bint take_start(self, object status, object fields) except -1:
        if self.made is not None or checked_status(status) < 0 or type(fields) is not list:
            return False
        self.text = encoded_fields(<list>fields, &self.about)
        if self.text is None:
            return False
        self.status = status
        if (
            self.scopes is None or not self.scopes.is_as_made(<dict?>self.scope)
        ) and ROUTE in <dict?>self.scope:
            self._note_route()
        return True

    cdef bint take_body(self, object body) except -1:
        if (
            type(body) is not bytes or self.made is not None or self.decided is not None
            or self.is_complete or self._is_over or not self._is_running
            or (
                self.about.length >= 0
                and self.about.length != PyBytes_GET_SIZE(<bytes>body)
            )
        ):
            return False
        self.body = <bytes>body
        self.is_complete = True
        return True

    cdef bytes encoded(self, Head request):
        cdef bytes reply = None
        if self.decided is None:  # otherwise another one than was taken here may be
            reply = encoded_answer(request, self.status, self.text, &self.about, self.body)
        if reply is None or not self.put_back():
            self.to_receive = self.to_send = None
        return reply

    cdef bint put_back(self) except -1:
        """Let the next request use this, if nobody else can; return whether it will."""
        cdef Caller owner = <Caller?>self._owner
        cdef dict scope
        if not (
            owner.spare is None and self.scopes is not None and self.made is None and not self._has_received
            and references(<PyObject *>self.to_receive) == 1
            and references(<PyObject *>self.to_send) == 1
            and references(<PyObject *>self) == 3  # theirs, and that of whoever steps it
        ):
            return False
        scope = <dict?>self.scope
        self.scope = None
        self.scopes.take_back(scope)
        self._request = self._owner = self.context = self.text = self.body = None
        self.is_complete = self._is_over = self.is_asked = False
        owner.spare = self
        return True

    cdef object response(self):
        return self.outcome

    # ----------------------------------------------------------------------- as awaitable

    def throw(self, kind, value=None, traceback=None):
        try:
            PyContext_Enter(self.context)
            self._is_running = True
            try:
                if value is None and traceback is None:
                    yielded = self.coroutine.throw(kind)
                else:
                    yielded = self.coroutine.throw(kind, value, traceback)
            finally:
                self._is_running = False
                PyContext_Exit(self.context)
        except StopIteration:
            result = self.finish(None)
        except BaseException as error:
            result = self.finish(error)
        else:
            self.suspend()
            return yielded
        raise StopIteration(result)

    def close(self):
        self.to_receive = self.to_send = None
        if self.coroutine is not None:
            self.coroutine.close()

    cdef int step(self, void **out) except -1:
        cdef PyObject *yielded = NULL
        cdef object result, error
        cdef int kind
        try:
            if self.coroutine is None:
                self.context = PyContext_CopyCurrent()
            PyContext_Enter(self.context)
            self._is_running = True
            try:
                if self.coroutine is None:
                    self.begin()
                kind = PyIter_Send(self.coroutine, None, &yielded)
            finally:
                self._is_running = False
                PyContext_Exit(self.context)
        except BaseException as error:
            result = self.finish(error)
            kind = 0
        else:
            if kind == 1:
                try:
                    self.suspend()
                except BaseException:  # pragma: no cover - out of memory
                    Py_DECREF(<object>yielded)
                    raise
                out[0] = <void *>yielded
                return 1
            Py_DECREF(<object>yielded)
            result = self.finish(None)
        Py_INCREF(result)
        out[0] = <void *>result
        return 0

    cdef int begin(self) except -1:
        if self.to_send is None:
            self.to_receive = PyMethod_New(RECEIVE, self)
            self.to_send = PyCFunction_New((<PyMethodDescrObject *>SEND).d_method, self)
        started = self.app(self.scope, self.to_receive, self.to_send)
        if PyCoro_CheckExact(started) or iscoroutine(started):
            self.coroutine = started
        else:
            self.coroutine = _await(started)
        return 0

    cdef int suspend(self) except -1:
        if not self.is_handed_over and self.outcome is not None:
            self._hand_over()
        return 0

    cdef object finish(self, error):
        self.coroutine = self.app = None
        if error is None and not self.is_slow and self.is_complete and not self.is_handed_over:
            self._is_over = True
            if self._watching is None:
                if self.is_asked:
                    return UNENCODED
                self.to_receive = self.to_send = None
                return self.outcome
        self.to_receive = self.to_send = None
        return self._finished(error)


async def _await(awaitable):
    await awaitable


cdef class RawAnswer(Answer):
    """A response whose header fields are those of the application; the base of `RawResponse`."""

    cdef public list fields
    cdef bytes text  # the same, encoded; None: that must be done in another way
    cdef About about

    def __cinit__(self):
        self.about.length = -1

    def __init__(self, status, list fields not None):
        self.status = status
        self.fields = fields
        self.body = NOTHING

    @property
    def size(self):
        return None if self.about.length < 0 else self.about.length

    @size.setter
    def size(self, value):
        self.about.length = -1 if value is None else value
        self.text = None

    cdef bytes encode(self, Head request):
        if self.text is None or type(self.body) is not bytes:
            return None
        return encoded_answer(request, self.status, self.text, &self.about, <bytes>self.body)


cdef bytes encoded_fields(list fields, About *about):
    """Return *fields*, encoded, if they are of the usual kind; else None.

    They are the application's, which may change the list before the response is complete.
    """
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t at, name_size, value_size
    cdef PyObject *pair
    cdef const char *name
    cdef const char *value
    cdef char *end
    cdef bytes text
    about.length = -1
    about.has_date = False
    for at in range(PyList_GET_SIZE(fields)):
        pair = pair_of(fields, at)
        if not (is_tuple(pair) and tuple_size(pair) == 2):
            return None
        if not (is_bytes(part(pair, 0)) and is_bytes(part(pair, 1))):
            return None
        name, name_size = data_of(part(pair, 0)), size_of(part(pair, 0))
        value, value_size = data_of(part(pair, 1)), size_of(part(pair, 1))
        if has_line_break(name, name_size) or has_line_break(value, value_size):
            return None
        if name_size == 4:
            about.has_date = about.has_date or is_name(name, b"date", 4)
        elif name_size == 10:
            if is_name(name, b"connection", 10):
                return None
        elif name_size == 14:
            if memcmp(name, b"content-length", 14) == 0 or is_name(name, b"content-length", 14):
                if about.length >= 0:
                    return None
                about.length = number(value, value_size)
                if about.length < 0:
                    return None
        elif name_size == 17:
            if is_name(name, b"transfer-encoding", 17):
                return None
        size += name_size + value_size + 4
    text = PyBytes_FromStringAndSize(NULL, size)
    end = PyBytes_AS_STRING(text)
    for at in range(PyList_GET_SIZE(fields)):
        pair = pair_of(fields, at)
        end = copied(end, data_of(part(pair, 0)), size_of(part(pair, 0)))
        end[0] = c":"
        end[1] = c" "
        end = copied(end + 2, data_of(part(pair, 1)), size_of(part(pair, 1)))
        end[0] = c"\r"
        end[1] = c"\n"
        end += 2
    return text


cdef list fields_of(bytes text):
    """Return what `encoded_fields` has encoded."""
    cdef list fields = []
    cdef list lines = text.split(b"\r\n")
    lines.pop()  # what is after the last line
    for line in lines:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return fields


cdef bytes encoded_answer(
    Head request, object status, bytes fields, const About *about, bytes body
):
    """Return an answer with these encoded *fields*; None: it must be encoded in another way."""
    cdef long number
    cdef Py_ssize_t size, whole, left
    cdef char digits[DIGITS_OF_SIZE]
    cdef char *length = digits + DIGITS_OF_SIZE
    cdef bytes line, dated = NOTHING, reply
    cdef char *end
    if not request.is_simple():
        return None
    number = checked_status(status)
    if number < 0 or number == 204 or number == 205 or number == 304:
        return None
    size = PyBytes_GET_SIZE(body)
    if size > JOINED:
        return None
    line = status_line(<int>number)
    if not about.has_date:
        dated = date()
    whole = PyBytes_GET_SIZE(line) + PyBytes_GET_SIZE(fields) + PyBytes_GET_SIZE(dated) + size + 2
    if about.length < 0:
        left = size
        while True:
            length -= 1
            length[0] = <char>(c"0" + left % 10)
            left //= 10
            if left == 0:
                break
        whole += (digits + DIGITS_OF_SIZE - length) + 18
    reply = PyBytes_FromStringAndSize(NULL, whole)
    end = put(PyBytes_AS_STRING(reply), line)
    end = put(put(end, fields), dated)
    if about.length < 0:
        memcpy(end, b"content-length: ", 16)
        end += 16
        memcpy(end, length, <size_t>(digits + DIGITS_OF_SIZE - length))
        end += digits + DIGITS_OF_SIZE - length
        end[0] = c"\r"
        end[1] = c"\n"
        end += 2
    end[0] = c"\r"
    end[1] = c"\n"
    put(end + 2, body)
    return reply


cdef class Caller(Starter):
    """Calls an application; the base of `ApplicationHandler`."""

    cdef object __weakref__
    cdef object app
    cdef dict state
    cdef bint is_mounted
    cdef Cycle spare  # for the next request; None: it is used

    def __init__(self, app, str root_path not None, dict state not None):
        self.app = app
        self.state = state
        self.is_mounted = bool(root_path)

    def __call__(self, Head request not None):
        cdef Cycle exchange = self.begun(request, request._connection.memo)
        return self._call(request) if exchange is None else exchange

    cdef Answering start(self, Head request, object memo):
        cdef Cycle exchange = self.begun(request, memo)
        if exchange is not None:
            exchange.is_asked = True
        return exchange

    cdef Cycle begun(self, Head request, object memo):
        """Return an exchange for a plain *request*; None: it must be made in another way."""
        cdef dict scope
        cdef Cycle exchange
        if request.data is None or self.is_mounted or type(memo) is not tuple:
            return None
        exchange, self.spare = self.spare, None
        if exchange is None:
            exchange = <Cycle>new(EXCHANGE)
            exchange.scopes = new_scopes()
        scope = exchange.scopes.scope_of(request, <tuple>memo, self.state)
        if scope is None:
            self.spare = exchange
            return None
        exchange._owner = self
        exchange.app = self.app
        exchange._request = request
        exchange.scope = scope
        return exchange


cdef inline bint is_name(const char *text, const char *name, Py_ssize_t size) noexcept:
    """Return whether *text* is *name*, in upper or lower case."""
    cdef Py_ssize_t at
    cdef char letter
    for at in range(size):
        letter = text[at]
        if c"A" <= letter <= c"Z":
            letter += 32
        if letter != name[at]:
            return False
    return True


cdef inline bint is_text(object value, const char *text, Py_ssize_t size) noexcept:
    """Return whether *value* is this *text*, which is ASCII."""
    return (
        type(value) is str and PyUnicode_IS_COMPACT_ASCII(value)
        and PyUnicode_GET_LENGTH(value) == size
        and memcmp(PyUnicode_DATA(value), text, <size_t>size) == 0
    )


cdef inline uint64_t has_zero(uint64_t word) noexcept:
    """Return not zero, if one of the eight bytes is zero."""
    return (word - ONES) & ~word & (ONES << 7)


cdef inline bint has_line_break(const char *text, Py_ssize_t size) noexcept:
    cdef Py_ssize_t at = 0
    cdef uint64_t word
    if size < 8:
        for at in range(size):
            if text[at] == c"\n" or text[at] == c"\r":
                return True
        return False
    while True:
        memcpy(&word, text + at, 8)
        if has_zero(word ^ (ONES * 10)) | has_zero(word ^ (ONES * 13)):  # LF, CR
            return True
        if at == size - 8:
            return False
        at = min(at + 8, size - 8)


cdef Py_ssize_t number(const char *text, Py_ssize_t size) noexcept:
    """Return the number that *text* is; -1 if it is none, or has too many digits."""
    cdef Py_ssize_t at
    cdef Py_ssize_t value = 0
    if size < 1 or size > 15:
        return -1
    for at in range(size):
        if not c"0" <= text[at] <= c"9":
            return -1
        value = value * 10 + (text[at] - c"0")
    return value


cdef inline char *put(char *end, bytes data) noexcept:
    return copied(end, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline char *copied(char *end, const char *data, Py_ssize_t size) noexcept:
    memcpy(end, data, <size_t>size)
    return end + size


cdef object EXCHANGE = None, RESPONSE = None
cdef object RECEIVE = None, SEND = None  # what applications call


def use(exchange, response):
    """Use these kinds, which derive from `Cycle` and `RawAnswer`."""
    global EXCHANGE, RESPONSE, RECEIVE, SEND
    if not (issubclass(exchange, Cycle) and issubclass(response, RawAnswer)):
        raise TypeError("they derive from Cycle and RawAnswer")
    EXCHANGE, RESPONSE = exchange, response
    RECEIVE, SEND = exchange.receive, Cycle.send
    set_slots(exchange)
