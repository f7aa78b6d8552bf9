"""Plain requests, recognised without the parser, and plain responses; the native `bases.py`.

Most requests are plain: their heads use nothing that two servers could understand differently,
and their bodies, if any, have a Content-Length. These are recognised here, in one pass over their
bytes; only their places are kept, and objects are made of what a handler asks for. Whatever is
not plain, is invalid, too long, or incomplete, is left to `ServerSession`, whole, as if nothing
had been recognised. So this decides nothing by itself: it must only never recognise what the
session would refuse, or understand differently. Responses likewise: what is encoded here is what
`Response` would have encoded.

Clients send the same fields with each request, mostly, and those of one kind of client are alike. So
fields that are, byte by byte, what was recognised lately are not looked through again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE, PyList_GetSlice
from cpython.ref cimport PyObject
from cython cimport final, no_gc
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy
from libc.time cimport time, time_t

from silly._engine.native.linux cimport (
    PyUnicode_AsUTF8AndSize,
    PyUnicode_DecodeASCII,
    PyUnicode_IS_COMPACT_ASCII,
)

from email.utils import formatdate

from silly.net.http.errors import reason_of

cdef extern from "Python.h":
    Py_ssize_t references "Py_REFCNT"(KnownFields fields) noexcept
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *kind, object arguments, PyObject *keywords)

cdef enum:  # what a byte can be part of
    TARGET = 1
    NAME = 2
    VALUE = 4
    HOST = 8
    DIGIT = 16

cdef enum:
    KNOWN = 64  # how many requests' fields are remembered
    KNOWN_SIZE = 2048  # bytes: longer pieces of what was received are not

cdef enum:
    DIGITS = 15  # of a Content-Length, at most
    DIGITS_OF_SIZE = 20
    JOINED = 65536  # bytes: a longer body is not copied behind its head

cdef uint8_t KINDS[256]
cdef uint8_t LOWER[256]

cdef object OK = 200
cdef str VERSION = "1.1", EMPTY = ""
cdef str GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", PATCH = "PATCH"
cdef str DELETE = "DELETE", OPTIONS = "OPTIONS"
cdef bytes NOTHING = b""
cdef bytes TEXT = b"text/plain; charset=utf-8"
cdef bytes BYTES = b"application/octet-stream"


cdef class Head:
    """The head of a request, and what is known of its body; the base of `Request`."""

    def __init__(self, method, raw_target, version, raw_headers, content_length):
        self.method = method
        self.raw = raw_target
        self.version = version
        self.fields = raw_headers
        self.content_length = content_length
        self.is_plain = self.is_complete = not content_length
        if not content_length:
            self._body = NOTHING

    def _join_fields(self):
        """Keep the fields in one piece, in less memory, until somebody asks for them."""
        cdef list pieces = []
        if self.fields is not None:
            for name, value in self.fields:
                pieces += (name, b": ", value, b"\r\n")
            pieces.append(b"\r\n")
            self.data = b"".join(pieces)
            self.fields_start = 0
            self.raw = self.raw_target
            self.fields = None

    def _compact(self):
        """Keep no more than the head, in one piece; it was not for a handler to add anything."""
        self._join_fields()
        self.known = None
        if self.version == VERSION:
            self.version = VERSION  # the one that all share
        getattr(self, "__dict__").clear()

    @property
    def raw_target(self):
        if self.raw is None:
            self.raw = piece(self.data, self.target_start, self.target_end)
        return self.raw

    @raw_target.setter
    def raw_target(self, value):
        self.raw = value

    @property
    def target(self):
        if self.raw is None:
            return PyUnicode_DecodeASCII(
                PyBytes_AS_STRING(self.data) + self.target_start,
                self.target_end - self.target_start,
                NULL,
            )
        return self.raw.decode("ascii")

    @property
    def route(self):
        return EMPTY if self.matched is None else self.matched

    @route.setter
    def route(self, value):
        self.matched = value

    @property
    def root_path(self):
        return EMPTY if self.mount is None else self.mount

    @root_path.setter
    def root_path(self, value):
        self.mount = value

    @property
    def raw_headers(self):
        return self.fields if self.fields is not None else self.raw_fields()

    cdef list raw_fields(self):
        if self.fields is None:
            if self.known is None:
                self.fields = fields_of(self.data, self.fields_start)
            else:
                self.fields = self.known.copy()
        return self.fields

    cdef bint is_simple(self) except -1:
        """Return whether it wants nothing but an answer of the usual kind, and has all come."""
        return (
            self.is_plain
            or (
                self.data is not None and self.is_complete and self.keeps_alive
                and self._form is None
            )
        ) and self.method is not HEAD

    cdef bint may_be_conditional(self) except -1:
        """Return whether it has a field whose name begins with ``if-`` or ``range``."""
        cdef const uint8_t *line
        if self.data is None or self.fields is not None:
            return True  # or somebody has changed them
        line = <const uint8_t *>PyBytes_AS_STRING(self.data) + self.fields_start
        while line[0] != c"\r":  # of the line that ends the head
            if is_name(line, b"if-", 3) or is_name(line, b"range", 5):
                return True
            while line[0] != c"\n":
                line += 1
            line += 1
        return False

    @raw_headers.setter
    def raw_headers(self, value):
        self.fields = value


@final
@no_gc
cdef class KnownFields:
    """The fields of a plain request: those of the next one are likely to be the same."""

    cdef list copy(self):
        if self.pairs is None:
            self.pairs = fields_of(self.data, self.start)
        return PyList_GetSlice(self.pairs, 0, PyList_GET_SIZE(self.pairs))


cdef list known_fields = [KnownFields.__new__(KnownFields) for _ in range(KNOWN)]  # by sizes


cdef class Dispatcher:
    """Finds the handlers of paths without parameters; the base of `Router`."""

    cdef object __weakref__
    cdef readonly dict _literal
    cdef public object _handle

    def __init__(self):
        self._literal = {}

    def __call__(self, Head request not None):
        return self.dispatch(request) if self._handle is None else self._handle(request)

    def _dispatch(self, Head request not None):
        return self.dispatch(request)

    cdef object dispatch(self, Head request):
        cdef bytes target
        cdef object routes, route
        if request.mount is None or not request.mount:
            target = request.raw_target
            routes = self._literal.get(target)
            if routes is None and b"?" in target:
                routes = self._literal.get(target.partition(b"?")[0])
            if routes is not None:
                route = (<dict>routes).get(request.method)
                if route is not None:
                    request.matched = route[1]
                    return route[0](request)
        return self._search(request)


cdef class PlainRequests:
    """The part of a session that recognises plain requests; the base of `ServerSession`."""

    def __init__(self, kind, limits):
        self.kind = kind
        self.requests = []
        self.max_head = capped(limits.max_head_bytes)
        self.max_target = capped(limits.max_target_bytes)
        self.max_fields = capped(limits.max_headers)
        self.max_body = capped(limits.max_body_bytes)
        self.max_pipelined = capped(limits.max_pipelined)

    def feed(self, bytes data not None):
        self.parse(data)

    cdef int parse(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t end
        if self.error is not None:
            return 0
        if self.left:
            at = self.take_body(data, 0)
        while at < size and not (
            self.in_head or self.ends or self.is_paused or self._receiving is not None
        ):
            end = self.take_head(data, at)
            if end == 0:
                break
            at = self.take_body(data, end) if self.left else end
        if at < size:
            self._feed(data if at == 0 else piece(data, at, size))
        if len(self.requests) + (self.first is not None) > self.max_pipelined:
            self._refuse_pipelined()
        return 0

    cdef Py_ssize_t take_body(self, bytes data, Py_ssize_t at) except -1:
        """Take what is in *data* of the body; return where it ends."""
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef object request = self._receiving
        if end - at > self.left:
            end = at + self.left
        if end > at:
            request._receive(piece(data, at, end), self.max_body)
            self.left -= end - at
            if self.left == 0:
                self._receiving = None
                (<Head>request).is_complete = True
        return end

    cdef Py_ssize_t take_head(self, bytes data, Py_ssize_t start) except -1:
        """Take a request whose head begins at *start*; return where that ends, or 0."""
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = start
        cdef Py_ssize_t target_start, target_end
        cdef KnownFields known
        cdef Head head
        cdef str method = None
        if size - start > self.max_head:  # the end of the head must be within the limit
            size = start + self.max_head
        if size - start < 16:
            return 0
        if text[at] == c"G":
            if memcmp(text + at, b"GET ", 4) == 0:
                method = GET
                at += 4
        elif text[at] == c"P":
            if memcmp(text + at, b"POST ", 5) == 0:
                method = POST
                at += 5
            elif memcmp(text + at, b"PUT ", 4) == 0:
                method = PUT
                at += 4
            elif memcmp(text + at, b"PATCH ", 6) == 0:
                method = PATCH
                at += 6
        elif memcmp(text + at, b"HEAD ", 5) == 0:
            method = HEAD
            at += 5
        elif memcmp(text + at, b"DELETE ", 7) == 0:
            method = DELETE
            at += 7
        elif memcmp(text + at, b"OPTIONS ", 8) == 0:
            method = OPTIONS
            at += 8
        if method is None or text[at] != c"/":
            return 0
        target_start = at
        while at < size and KINDS[text[at]] & TARGET:
            at += 1
        target_end = at
        if target_end - target_start > self.max_target:
            return 0
        if size - at < 11 or memcmp(text + at, b" HTTP/1.1\r\n", 11) != 0:
            return 0
        at += 11
        known = <KnownFields>known_fields[(size - at) & (KNOWN - 1)]
        if not (
            0 < known.size <= size - at and known.count <= self.max_fields
            and known.length <= self.max_body
            and memcmp(text + at, PyBytes_AS_STRING(known.data) + known.start, known.size) == 0
        ):
            known = None
            known = self.take_fields(data, at, size)
            if known is None:
                return 0
        head = <Head>new(self.kind)
        head.method = method
        head.version = VERSION
        head.data = data
        head.target_start = target_start
        head.target_end = target_end
        head.fields_start = at
        head.known = known
        if known.length > 0:
            head.content_length = known.length
            head._begin_body()
            self._receiving = head
            self.left = known.length
        else:
            head.content_length = 0
            head._body = NOTHING
            head.is_plain = head.is_complete = True
        if self.first is None and not self.requests:
            self.first = head
        else:
            self.requests.append(head)
        return at + known.size

    cdef KnownFields take_fields(self, bytes data, Py_ssize_t at, Py_ssize_t size):
        """Return the fields that begin there in *data*, and end before *size*; None: they do not."""
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t start = at
        cdef Py_ssize_t name, colon, value, end
        cdef Py_ssize_t fields = 0
        cdef Py_ssize_t length = -1
        cdef bint has_host = False, has_type = False, has_connection = False
        cdef KnownFields known
        while True:
            if size - at < 2:
                return None
            if text[at] == c"\r":
                if text[at + 1] != c"\n":
                    return None
                at += 2
                break
            name = at
            while at < size and KINDS[text[at]] & NAME:
                at += 1
            colon = at
            if colon == name or at == size or text[at] != c":":
                return None
            at += 1
            while at < size and (text[at] == c" " or text[at] == c"\t"):
                at += 1
            value = at
            while at < size and KINDS[text[at]] & VALUE:
                at += 1
            if size - at < 2 or text[at] != c"\r" or text[at + 1] != c"\n":
                return None
            end = at
            at += 2
            while end > value and (text[end - 1] == c" " or text[end - 1] == c"\t"):
                end -= 1
            fields += 1
            if colon - name == 4:
                if is_name(text + name, b"host", 4):
                    if has_host or not self.is_host(text + value, end - value):
                        return None
                    has_host = True
            elif colon - name == 6:
                if is_name(text + name, b"expect", 6):
                    return None
            elif colon - name == 7:
                if is_name(text + name, b"upgrade", 7):
                    return None
            elif colon - name == 10:
                if is_name(text + name, b"connection", 10):
                    if has_connection or end - value != 10 or not is_name(
                        text + value, b"keep-alive", 10
                    ):
                        return None
                    has_connection = True
            elif colon - name == 12:
                if is_name(text + name, b"content-type", 12):
                    if has_type:
                        return None
                    has_type = True
            elif colon - name == 14:
                if is_name(text + name, b"content-length", 14):
                    if length >= 0:
                        return None
                    length = number(text + value, end - value)
                    if length < 0 or length > self.max_body:
                        return None
            elif colon - name == 17:
                if is_name(text + name, b"transfer-encoding", 17):
                    return None
        if not has_host or fields > self.max_fields:
            return None
        known = <KnownFields>known_fields[(size - start) & (KNOWN - 1)]
        if PyBytes_GET_SIZE(data) > KNOWN_SIZE:
            known = KnownFields.__new__(KnownFields)
        elif references(known) > 2:  # the list's, and this one
            known = KnownFields.__new__(KnownFields)
            known_fields[(size - start) & (KNOWN - 1)] = known
        known.data, known.start, known.size = data, start, at - start
        known.count, known.length = fields, length
        known.pairs = None
        return known

    @property
    def pending(self):
        return len(self.requests) + (self.first is not None)

    def take(self, conn, connection):
        return self.next(conn, connection)

    cdef object next(self, conn, connection):
        cdef Head request = self.first
        if request is not None:
            self.first = None
        elif self.requests:
            request = <Head>self.requests.pop(0)
        else:
            self.is_waiting = not self.in_head and not self.ends and self.error is None
            return None if self.is_waiting else False
        self.is_waiting = False
        self.taken += 1
        request.conn = conn
        request._connection = connection
        return request

    cdef bint is_host(self, const uint8_t *text, Py_ssize_t size) except -1:
        """Return whether this is a host, and perhaps a port, of the most usual kind."""
        cdef Py_ssize_t at = 0
        if self.host is not None and size == PyBytes_GET_SIZE(self.host) and (
            memcmp(text, PyBytes_AS_STRING(self.host), <size_t>size) == 0
        ):
            return True
        while at < size and KINDS[text[at]] & HOST:
            at += 1
        if at == 0:
            return False
        if at < size and text[at] == c":":
            at += 1
            while at < size and KINDS[text[at]] & DIGIT:
                at += 1
        if at != size:
            return False
        self.host = PyBytes_FromStringAndSize(<const char *>text, size)
        return True


# ------------------------------------------------------------------------------ responses


cdef class Answer:
    """What a response consists of; the base of `Response`."""

    def __cinit__(self):
        self._fields = ()

    def __init__(self, body=NOTHING, status=200, headers=(), content_type=None):
        self.body = body
        self.status = status
        self.content_type = content_type
        if not (
            (type(body) is bytes or type(body) is str)
            and checked_status(status) >= 0
            and (headers == () if type(headers) is tuple else not headers)
            and (content_type is None or is_value(content_type))
        ):
            self._check(headers)

    cdef bytes encode(self, Head request):
        """Return all of it, encoded as an answer to *request*; None: in another way."""
        cdef const char *body = NULL
        cdef Py_ssize_t size = 0
        cdef object kind = self.content_type
        if not request.is_simple():
            return None
        if type(self.body) is str:
            try:
                body = PyUnicode_AsUTF8AndSize(self.body, &size)
            except UnicodeEncodeError:
                return None
        elif type(self.body) is bytes:
            body = PyBytes_AS_STRING(<bytes>self.body)
            size = PyBytes_GET_SIZE(<bytes>self.body)
        else:
            return None
        if size > JOINED:
            return None
        if kind is None:
            kind = TEXT if type(self.body) is str else BYTES
        return self.encode_as(kind, body, size, size)

    cdef bytes encode_head(self, Head request, Py_ssize_t length):
        """Return the head of an answer to *request* whose body has this *length*; as `encode`."""
        if not request.is_simple():
            return None
        return self.encode_as(
            BYTES if self.content_type is None else self.content_type, NULL, 0, length
        )

    cdef bytes encode_as(self, object kind, const char *body, Py_ssize_t size, Py_ssize_t length):
        """Return the head for a body of this *kind* and *length*, and *size* bytes of it."""
        cdef Py_ssize_t whole, count
        cdef char digits[DIGITS_OF_SIZE]
        cdef char *digit = digits + DIGITS_OF_SIZE
        cdef bytes head, fields, reply
        cdef char *end
        head = head_of(self.status, kind)
        if head is None:
            return None
        fields = encoded_fields(self._fields)
        if fields is None:
            return None
        while True:
            digit -= 1
            digit[0] = <char>(c"0" + length % 10)
            length //= 10
            if length == 0:
                break
        count = digits + DIGITS_OF_SIZE - digit
        whole = PyBytes_GET_SIZE(head) + count + PyBytes_GET_SIZE(fields) + size + 4
        reply = PyBytes_FromStringAndSize(NULL, whole)
        end = put(PyBytes_AS_STRING(reply), PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        end = put(end, digit, count)
        end = put(end, "\r\n", 2)
        end = put(end, PyBytes_AS_STRING(fields), PyBytes_GET_SIZE(fields))
        end = put(end, "\r\n", 2)
        put(end, body, size)
        return reply


cdef class HeadBlock:
    """The head of responses of one kind, made in one second."""

    cdef object status, kind
    cdef time_t made
    cdef bytes text


cdef list blocks = [HeadBlock.__new__(HeadBlock) for _ in range(16)]  # by addresses


cdef bytes head_of(object status, object kind):
    """Return the head of a response up to its length; None: it must be encoded in another way.

    *kind*, its content type, is bytes, or text that a program has given.
    """
    cdef size_t index = (<size_t><void *>status >> 4) ^ (<size_t><void *>kind >> 4)
    cdef HeadBlock block = <HeadBlock>blocks[index & 15]
    cdef time_t now = time(NULL)
    cdef long value
    if block.status is status and block.kind is kind and block.made == now:
        return block.text
    value = checked_status(status)
    if value < 0 or value == 204 or value == 205 or value == 304:
        return None
    if type(kind) is not bytes and not is_value(kind):
        return None
    block.made = 0  # while it is neither
    block.status, block.kind = status, kind
    block.text = b"%b%bcontent-type: %b\r\ncontent-length: " % (
        status_line(<int>value), date(), kind if type(kind) is bytes else kind.encode("ascii")
    )
    block.made = now
    return block.text


def encoded(Head request not None, response, Counts counts not None):
    cdef bytes reply = None
    if isinstance(response, Answer):
        reply = (<Answer>response).encode(request)
        if reply is not None:
            counts.add(request.method, (<Answer>response).status)
    return reply


cdef class Counts:
    """How many responses were sent, by method and status."""

    def __init__(self):
        self.counts = {}

    cpdef add(self, str method, status):
        if method is self.last_method and status is self.last_status:  # mostly
            self.last_count += 1
            return
        self.add_last()
        self.last_method, self.last_status, self.last_count = method, status, 1

    cdef int add_last(self) except -1:
        if self.last_count:
            key = self.last_method, self.last_status
            self.counts[key] = self.counts.get(key, 0) + self.last_count
            self.last_count = 0
        return 0

    def items(self):
        self.add_last()
        return self.counts.copy()


cdef long checked_status(status) except -2:
    """Return the status; -1 if it is none."""
    cdef long value = -1
    if status is OK:
        return 200
    if type(status) is int:
        try:
            value = <long>status
        except OverflowError:
            return -1
    return value if 200 <= value <= 599 else -1


cdef bint is_value(text) except -1:
    """Return whether this is printable ASCII."""
    cdef const char *data
    cdef Py_ssize_t size = 0, at
    if type(text) is not str or not PyUnicode_IS_COMPACT_ASCII(text):
        return False
    data = PyUnicode_AsUTF8AndSize(text, &size)
    for at in range(size):
        if not 0x20 <= data[at] <= 0x7E:
            return False
    return True


cdef tuple last_fields = ()  # which were encoded ...
cdef bytes last_text = NOTHING  # ... to this


cdef bytes encoded_fields(fields):
    """Return the encoded *fields*; None: they must be encoded in another way."""
    global last_fields, last_text
    cdef Py_ssize_t size = 0
    cdef bytes text
    cdef char *end
    if fields is last_fields:
        return last_text
    for name, value in fields:
        if not (is_value(name) and is_value(value)):
            return None
        size += len(<str>name) + len(<str>value) + 4
    if size == 0:
        return NOTHING
    text = PyBytes_FromStringAndSize(NULL, size)
    end = PyBytes_AS_STRING(text)
    for name, value in fields:
        end = put_text(end, name)
        end = put(end, ": ", 2)
        end = put_text(end, value)
        end = put(end, "\r\n", 2)
    if type(fields) is tuple:  # it cannot change
        last_fields, last_text = <tuple>fields, text
    return text


cdef inline char *put(char *end, const char *data, Py_ssize_t size) noexcept:
    memcpy(end, data, <size_t>size)
    return end + size


cdef inline char *put_text(char *end, text) except NULL:
    cdef Py_ssize_t size = 0
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    return put(end, data, size)


cdef list status_lines = [None] * 600
cdef bytes date_line = b""
cdef time_t dated = 0  # in which second that was made


cdef bytes status_line(int status):
    cdef object line = status_lines[status]
    if line is None:
        line = status_lines[status] = f"HTTP/1.1 {status} {reason_of(status)}\r\n".encode("ascii")
    return <bytes>line


cdef bytes date():
    global date_line, dated
    cdef time_t now = time(NULL)
    if now != dated:
        date_line = f"date: {formatdate(now, usegmt=True)}\r\n".encode("ascii")
        dated = now
    return date_line


# ------------------------------------------------------------------------------ bytes


cdef object new(kind):
    return (<PyTypeObject *>kind).tp_new(<PyTypeObject *>kind, (), NULL)


cdef inline bytes piece(bytes data, Py_ssize_t start, Py_ssize_t end):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, end - start)


cdef inline bint is_name(const uint8_t *text, const char *name, Py_ssize_t size) noexcept:
    """Return whether *text* is *name*, in upper or lower case."""
    cdef Py_ssize_t at
    for at in range(size):
        if LOWER[text[at]] != <uint8_t>name[at]:
            return False
    return True


cdef Py_ssize_t number(const uint8_t *text, Py_ssize_t size) noexcept:
    """Return the number that *text* is; -1 if it is none, or has too many digits."""
    cdef Py_ssize_t at
    cdef Py_ssize_t value = 0
    if size < 1 or size > DIGITS:
        return -1
    for at in range(size):
        if not KINDS[text[at]] & DIGIT:
            return -1
        value = value * 10 + (text[at] - c"0")
    return value


cdef list fields_of(bytes data, Py_ssize_t at):
    """Return the fields of the head whose first one, if any, begins at *at*."""
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t start, end, index
    cdef bytes name
    cdef uint8_t *lower
    cdef list fields = []
    while text[at] != c"\r":
        start = at
        while text[at] != c":":
            at += 1
        name = PyBytes_FromStringAndSize(NULL, at - start)
        lower = <uint8_t *>PyBytes_AS_STRING(name)
        for index in range(at - start):
            lower[index] = LOWER[text[start + index]]
        at += 1
        while text[at] == c" " or text[at] == c"\t":
            at += 1
        start = at
        while text[at] != c"\r":
            at += 1
        end = at
        while end > start and (text[end - 1] == c" " or text[end - 1] == c"\t"):
            end -= 1
        fields.append((name, piece(data, start, end)))
        at += 2
    return fields


cdef Py_ssize_t capped(value) except? -1:
    return min(value, 1 << 62)


cdef int fill_tables() except -1:
    cdef int byte
    for byte in range(256):
        LOWER[byte] = <uint8_t>(byte + 32) if c"A" <= byte <= c"Z" else <uint8_t>byte
        KINDS[byte] = VALUE if 0x20 <= byte <= 0x7E or byte == c"\t" else 0
    for byte in b"0123456789":
        KINDS[byte] |= DIGIT
    for byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        KINDS[byte] |= TARGET | NAME | HOST
    for byte in b"-._~!$&'()*+,;=:@/?%":  # RFC 3986, sections 3.3 and 3.4
        KINDS[byte] |= TARGET
    for byte in b"!#$%&'*+-.^_`|~":  # RFC 9110, section 5.6.2
        KINDS[byte] |= NAME
    for byte in b"-.":
        KINDS[byte] |= HOST
    return 0


fill_tables()
