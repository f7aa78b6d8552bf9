"""The scopes of plain requests.

Most of a scope is the same for all requests, and few applications change it. So a scope that
nobody has kept or changed is used again, for the next request: what differs is set. The scopes of
others are copies of a template. A dictionary that has the same version as before is the same.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from silly._engine.native.linux cimport PyUnicode_DecodeASCII
from silly.net.http.plain cimport Head, KnownFields

cdef extern from "Python.h":
    Py_ssize_t references "Py_REFCNT"(PyObject *counted) noexcept
    PyObject *item "PyList_GET_ITEM"(list items, Py_ssize_t at) noexcept

cdef extern from *:
    """
    /* Returns what no other dictionary has, and this one had not before it was changed last;
       0: nothing says whether it is changed. See PEP 509, and PEP 699, which ends it. */
    static inline uint64_t silly_version(PyObject *dict) {
    #if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED) && defined(__GNUC__)
        #pragma GCC diagnostic push
        #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        return ((PyDictObject *)dict)->ma_version_tag;
        #pragma GCC diagnostic pop
    #else
        return 0;
    #endif
    }
    """
    uint64_t version_of "silly_version"(PyObject *which) noexcept

cdef str GET = "GET", METHOD = "method", PATH = "path", RAW_PATH = "raw_path", QUERY = "query_string"
cdef str HEADERS = "headers", STATE = "state", CLIENT = "client", EXTENSIONS = "extensions"
cdef bytes NOTHING = b""


cdef class Scopes:
    """Makes scopes, one after the other."""

    cdef dict scope_of(self, Head request, tuple memo, dict state):
        """Return the scope of a plain *request*; None: it must be made in another way.

        Args:
            memo: the template of scopes, the address of the client, and the extensions.
            state: what is copied.
        """
        cdef const char *text = PyBytes_AS_STRING(request.data) + request.target_start
        cdef Py_ssize_t size = request.target_end - request.target_start
        cdef Py_ssize_t end = 0
        cdef dict scope
        cdef list fields
        while end < size and text[end] != c"?":
            if text[end] == c"%":
                return None
            end += 1
        fields = self.fields_of(request)
        if fields is None:
            return None
        scope = self.scope
        if scope is None or self.template is not memo[0]:
            self.template = <dict?>memo[0]
            scope = self.template.copy()
            self.method, self.client, self.raw_path, self.query = GET, None, NOTHING, NOTHING
            self.extensions = self.state = self.headers = None
        self.scope = None
        if self.extensions is None:
            scope[EXTENSIONS] = self.extensions = (<dict?>memo[2]).copy()
            self.extensions_version = version_of(<PyObject *>self.extensions)
        if self.state is None or self.own_version != version_of(<PyObject *>state):
            scope[STATE] = self.state = state.copy()
            self.state_version = version_of(<PyObject *>self.state)
            self.own_version = version_of(<PyObject *>state)
        if self.client is not memo[1]:
            scope[CLIENT] = self.client = memo[1]
        if self.method is not request.method:
            scope[METHOD] = self.method = request.method
        if not is_same(self.raw_path, text, end):
            scope[PATH] = PyUnicode_DecodeASCII(text, end, NULL)
            scope[RAW_PATH] = self.raw_path = PyBytes_FromStringAndSize(text, end)
        end = min(end + 1, size)
        if not is_same(self.query, text + end, size - end):
            scope[QUERY] = self.query = PyBytes_FromStringAndSize(text + end, size - end)
        if self.headers is not fields:
            scope[HEADERS] = self.headers = fields
        self.version = version_of(<PyObject *>scope)
        return scope

    cdef list fields_of(self, Head request):
        """Return the fields of *request*; None: a proxy may say there who its client is."""
        cdef KnownFields known = request.known
        cdef list fields
        if request.fields is None and known is not None and self.knows(known):
            fields = self.headers if self.has_own_headers() else self.known.copy()
            request.fields = fields
            return fields
        if request.fields is not None:  # somebody has asked for them, and may have changed them
            known = None
        fields = request.raw_fields()
        if has_reports(fields):
            return None
        self.known = known
        return fields

    cdef bint knows(self, KnownFields known) noexcept:
        """Return whether those of the last request were the same."""
        return known is self.known or (
            self.known is not None and known.size == self.known.size
            and memcmp(
                PyBytes_AS_STRING(known.data) + known.start,
                PyBytes_AS_STRING(self.known.data) + self.known.start,
                <size_t>known.size,
            ) == 0
        )

    cdef bint has_own_headers(self) noexcept:
        """Return whether nobody else has the list of the last fields, or has changed it."""
        cdef list pairs = self.known.pairs
        cdef Py_ssize_t at
        if self.headers is None or self.scope is None or references(<PyObject *>self.headers) != 2:
            return False
        if PyList_GET_SIZE(self.headers) != PyList_GET_SIZE(pairs):
            return False
        for at in range(PyList_GET_SIZE(pairs)):
            if item(self.headers, at) != item(pairs, at):
                return False
        return True

    cdef bint is_as_made(self, dict scope) noexcept:
        """Return whether nobody has changed the *scope* that was made last."""
        return self.version != 0 and version_of(<PyObject *>scope) == self.version

    cdef int take_back(self, dict scope) except -1:
        """Use the *scope* that was made last again, if nobody has changed or kept it."""
        if (
            self.is_as_made(scope) and references(<PyObject *>scope) == 1
            and is_own(<PyObject *>self.extensions, self.extensions_version)
            and is_own(<PyObject *>self.state, self.state_version)
        ):
            self.scope = scope
        else:
            self.extensions = self.state = self.headers = None
        return 0


cdef inline bint is_own(PyObject *part, uint64_t version) noexcept:
    """Return whether nobody else has this *part* of a scope, or has changed it."""
    return version_of(part) == version and references(part) == 2  # ours, and the scope's


cdef inline bint is_same(bytes data, const char *text, Py_ssize_t size) noexcept:
    return PyBytes_GET_SIZE(data) == size and (
        memcmp(PyBytes_AS_STRING(data), text, <size_t>size) == 0
    )


cdef bint has_reports(list fields) except -1:
    """Return whether one of *fields* is a proxy's that may say who the client is."""
    cdef const char *name
    cdef Py_ssize_t size
    for pair in fields:
        name = PyBytes_AS_STRING(<bytes?>(<tuple?>pair)[0])
        size = PyBytes_GET_SIZE(<bytes>(<tuple>pair)[0])
        if size == 9 and memcmp(name, b"forwarded", 9) == 0:
            return True
        if size >= 15 and memcmp(name, b"x-forwarded-", 12) == 0:
            return True
    return False


cdef Scopes new_scopes():
    return Scopes.__new__(Scopes)
