"""One request to an application, and the most usual response to it; the native `bases.py`.

Most applications answer with two messages: a start with a list of fields, and one whole body.
These are taken here, and sent as one piece. Everything else is left to `Exchange`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.string cimport memchr, memcpy

from silly._engine.native.linux cimport PyContext_Enter, PyContext_Exit, PyIter_Send
from silly.net.http.plain cimport Answer, Head, checked_status, date, new, status_line
from silly.net.http.stepped cimport Stepped

from asyncio import iscoroutine

from silly._engine.native.sending import drained as DRAINED
from silly.net.http.stepped import set_slots

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    bint PyCoro_CheckExact(object value) noexcept
    object PyUnicode_DecodeASCII(const char *data, Py_ssize_t size, const char *errors)

cdef enum:
    JOINED = 65536  # bytes: a longer body is not copied behind its head
    DIGITS_OF_SIZE = 20

cdef str TYPE = "type", START = "http.response.start", BODY = "http.response.body"
cdef str STATUS = "status", HEADERS = "headers", TRAILERS = "trailers", MORE_BODY = "more_body"
cdef str KEY_OF_BODY = "body"
cdef str GET = "GET", METHOD = "method", PATH = "path", RAW_PATH = "raw_path", QUERY = "query_string"
cdef str ROUTE = "route"  # of frameworks
cdef str STATE = "state", CLIENT = "client", EXTENSIONS = "extensions"
cdef bytes NOTHING = b""


cdef class Cycle(Stepped):
    """Steps an application through one request; the base of `Exchange`."""

    cdef object __weakref__
    cdef public object _request, _response, outcome, scope, _owner, _watching
    cdef public bint is_complete, is_handed_over, _is_over
    cdef readonly bint _is_running  # the application itself, not a task of its
    cdef object app, coroutine, context
    cdef bint is_slow  # something was left to `Exchange`

    def __init__(self, owner, app, Head request not None, scope):
        self._owner = owner
        self.app = app
        self._request = request
        self.scope = scope

    def send(self, message):
        if not self.is_slow and type(message) is dict and self.take(<dict>message):
            return DRAINED
        self.is_slow = True
        return self._send(message)

    cdef bint take(self, dict message) except -1:
        """Take a *message* of the usual kind; return whether it was one."""
        cdef object kind = message.get(TYPE)
        if type(kind) is not str:
            return False
        if self._response is None:
            return <str>kind == START and self.take_start(message)
        return <str>kind == BODY and self.take_body(message)

    cdef bint take_start(self, dict message) except -1:
        cdef object status = message.get(STATUS)
        cdef object fields = message.get(HEADERS)
        cdef RawAnswer response
        if fields is None or checked_status(status) < 0:
            return False
        if len(message) > 3 and TRAILERS in message:  # beside type, status and headers
            return False
        if type(fields) is not list:
            return False
        response = <RawAnswer>new(RESPONSE)
        response.body = NOTHING
        response.status = status
        if not response.take(<list>fields):
            return False
        if ROUTE in self.scope:
            self._note_route()
        self._response = response
        return True

    cdef bint take_body(self, dict message) except -1:
        cdef object body = message.get(KEY_OF_BODY)
        cdef object more = False if len(message) == 2 else message.get(MORE_BODY, False)
        cdef RawAnswer response = <RawAnswer>self._response
        if (
            more is not False or type(body) is not bytes
            or self.is_complete or self._is_over or self.outcome is not None
            or not self._is_running
            or (response.length >= 0 and response.length != PyBytes_GET_SIZE(<bytes>body))
        ):
            return False
        response.body = body
        self.is_complete = True
        self.outcome = response
        return True

    # ----------------------------------------------------------------------- as awaitable

    def throw(self, kind, value=None, traceback=None):
        if self.coroutine is None:
            raise kind
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
                except BaseException:
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
        started = self.app(self.scope, self.receive, self.send)
        if PyCoro_CheckExact(started) or iscoroutine(started):
            self.coroutine = started
        else:
            self.coroutine = _await(started)
        return 0

    cdef int suspend(self) except -1:
        if self.outcome is not None and not self.is_handed_over:
            self._hand_over()
        return 0

    cdef object finish(self, error):
        self.coroutine = self.app = None
        if error is None and not self.is_slow and self.is_complete and not self.is_handed_over:
            self._is_over = True
            if self._watching is None:
                return self.outcome
        return self._finished(error)


async def _await(awaitable):
    await awaitable


cdef class RawAnswer(Answer):
    """A response whose header fields are those of the application; the base of `RawResponse`."""

    cdef public list fields
    cdef Py_ssize_t length  # what the application says of its body; -1: nothing
    cdef Py_ssize_t encoded_size  # of the fields; -1: they must be encoded in another way
    cdef bint has_date

    def __cinit__(self):
        self.length = self.encoded_size = -1

    def __init__(self, status, list fields not None):
        self.status = status
        self.fields = fields
        self.body = NOTHING

    @property
    def size(self):
        return None if self.length < 0 else self.length

    @size.setter
    def size(self, value):
        self.length = -1 if value is None else value
        self.encoded_size = -1

    cdef bint take(self, list fields) except -1:
        """Take the *fields*, if they are of the usual kind; return whether they are."""
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t length = -1
        cdef Py_ssize_t name_size, value_size
        cdef const char *name
        cdef const char *value
        for pair in fields:
            if not (type(pair) is tuple and len(<tuple>pair) == 2):
                return False
            if not (type((<tuple>pair)[0]) is bytes and type((<tuple>pair)[1]) is bytes):
                return False
            name = PyBytes_AS_STRING(<bytes>(<tuple>pair)[0])
            value = PyBytes_AS_STRING(<bytes>(<tuple>pair)[1])
            name_size = PyBytes_GET_SIZE(<bytes>(<tuple>pair)[0])
            value_size = PyBytes_GET_SIZE(<bytes>(<tuple>pair)[1])
            if has_line_break(name, name_size) or has_line_break(value, value_size):
                return False
            if name_size == 4:
                self.has_date = self.has_date or is_name(name, b"date", 4)
            elif name_size == 10:
                if is_name(name, b"connection", 10):
                    return False
            elif name_size == 14:
                if is_name(name, b"content-length", 14):
                    if length >= 0:
                        return False
                    length = number(value, value_size)
                    if length < 0:
                        return False
            elif name_size == 17:
                if is_name(name, b"transfer-encoding", 17):
                    return False
            size += name_size + value_size + 4
        self.fields = fields
        self.length = length
        self.encoded_size = size
        return True

    cdef bytes encode(self, Head request):
        cdef long status
        cdef Py_ssize_t size, whole, left
        cdef char digits[DIGITS_OF_SIZE]
        cdef char *length = digits + DIGITS_OF_SIZE
        cdef bytes line, dated = NOTHING, body, reply
        cdef char *end
        if self.encoded_size < 0 or not request.is_simple() or type(self.body) is not bytes:
            return None
        status = checked_status(self.status)
        if status < 0 or status == 204 or status == 205 or status == 304:
            return None
        body = <bytes>self.body
        size = PyBytes_GET_SIZE(body)
        if size > JOINED:
            return None
        line = status_line(<int>status)
        if not self.has_date:
            dated = date()
        whole = PyBytes_GET_SIZE(line) + self.encoded_size + PyBytes_GET_SIZE(dated) + size + 2
        if self.length < 0:
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
        for pair in self.fields:
            end = put(end, <bytes>(<tuple>pair)[0])
            end[0] = c":"
            end[1] = c" "
            end = put(end + 2, <bytes>(<tuple>pair)[1])
            end[0] = c"\r"
            end[1] = c"\n"
            end += 2
        end = put(end, dated)
        if self.length < 0:
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


cdef class Caller:
    """Calls an application; the base of `ApplicationHandler`."""

    cdef object __weakref__
    cdef object app
    cdef dict state
    cdef bint is_mounted

    def __init__(self, app, str root_path not None, dict state not None):
        self.app = app
        self.state = state
        self.is_mounted = bool(root_path)

    def __call__(self, Head request not None):
        cdef object template
        cdef dict scope
        cdef Cycle exchange
        if request.data is not None and not self.is_mounted:
            template = request._connection.memo
            if type(template) is tuple:
                scope = plain_scope(<tuple>template, request, self.state)
                if scope is not None:
                    exchange = <Cycle>new(EXCHANGE)
                    exchange._owner = self
                    exchange.app = self.app
                    exchange._request = request
                    exchange.scope = scope
                    return exchange
        return self._call(request)


cdef dict plain_scope(tuple memo, Head request, dict state):
    """Return the scope of a plain *request*; None: it must be made in another way."""
    cdef const char *text
    cdef Py_ssize_t size, at
    cdef dict scope
    cdef list fields
    cdef bytes name
    fields = request.raw_fields()
    for pair in fields:
        name = <bytes>(<tuple>pair)[0]
        size = PyBytes_GET_SIZE(name)
        if (
            (size == 9 and name == b"forwarded")
            or (size >= 15 and memcmp_prefix(name, b"x-forwarded-", 12))
        ):
            return None
    text = PyBytes_AS_STRING(request.data) + request.target_start
    size = request.target_end - request.target_start
    if memchr(text, c"%", <size_t>size) != NULL:
        return None
    at = 0
    while at < size and text[at] != c"?":
        at += 1
    scope = (<dict>memo[0]).copy()
    scope[CLIENT] = memo[1]
    if request.method is not GET:  # which a template has
        scope[METHOD] = request.method
    scope[PATH] = PyUnicode_DecodeASCII(text, at, NULL)
    scope[RAW_PATH] = PyBytes_FromStringAndSize(text, at)
    if at < size:
        scope[QUERY] = PyBytes_FromStringAndSize(text + at + 1, size - at - 1)
    scope[HEADERS] = fields
    scope[EXTENSIONS] = (<dict>scope[EXTENSIONS]).copy()
    scope[STATE] = state.copy()
    return scope


cdef inline bint memcmp_prefix(bytes name, const char *prefix, Py_ssize_t size) noexcept:
    return is_name(PyBytes_AS_STRING(name), prefix, size)


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


cdef inline bint has_line_break(const char *text, Py_ssize_t size) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        if text[at] <= c"\r" and (text[at] == c"\n" or text[at] == c"\r"):
            return True
    return False


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
    memcpy(end, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
    return end + PyBytes_GET_SIZE(data)


cdef object EXCHANGE = None, RESPONSE = None


def use(exchange, response):
    """Use these kinds, which derive from `Cycle` and `RawAnswer`."""
    global EXCHANGE, RESPONSE
    if not (issubclass(exchange, Cycle) and issubclass(response, RawAnswer)):
        raise TypeError("they derive from Cycle and RawAnswer")
    EXCHANGE, RESPONSE = exchange, response
    set_slots(exchange)
