"""Open files, and parts of them as bodies of responses; natively, see `bases.py`.

A file that is in memory is sent with few system calls, so what Python does around them is most of
what a short one costs, and a good part of what a long one does.
"""

from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport strlen

from silly._engine.native.filter cimport Filtered
from silly._engine.native.linux cimport (
    PyUnicode_AsUTF8AndSize,
    PyUnicode_IS_COMPACT_ASCII,
    close,
    open_file,
)
from silly.net.http.plain cimport Answer, new

from silly._engine import filter
from silly.net.http import bases

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>

    /* Returns 1 if the system has the byte at this offset in memory, 0 if it has not, or cannot
       tell, or if the file is shorter. preadv2(2); not every C library has it. */
    static int silly_is_cached(int file, int64_t offset) {
        char byte;
        struct iovec piece = {&byte, 1};
        int before = errno;
        long count = syscall(
            SYS_preadv2, file, &piece, 1, (long)offset, (long)(offset >> 32), 8 /* RWF_NOWAIT */
        );
        errno = before;
        return count == 1;
    }
    """
    bint is_cached "silly_is_cached"(int file, int64_t offset) noexcept nogil

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *types, ...) except -1

cdef extern from "<sys/stat.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    cdef struct stat_t "stat":
        unsigned int st_mode
        int64_t st_size
        timespec st_mtim
    int fstat(int file, stat_t *status)
    bint S_ISREG(unsigned int mode)

cdef int UNABLE = filter.UNABLE
cdef int64_t SENT = bases.SENT


cdef class Descriptor:
    """A descriptor that is closed when nothing refers to it any more."""

    def __cinit__(self, int number=-1):
        self.number = number

    def __dealloc__(self):
        if self.number >= 0:
            with nogil:
                close(self.number)


cdef class OpenFile:
    """An open file; the base of `DiskFile`."""

    def __init__(self, int number):
        self.descriptor = Descriptor(number)

    @property
    def _open(self):
        return self.open()

    cdef Descriptor open(self):
        if self.descriptor is None:
            raise ValueError("the file is closed")
        return self.descriptor

    cdef int shut(self) except -1:
        self.descriptor = None
        return 0

    def close(self):
        self.shut()

    def status(self):
        cdef int number = self.open().number
        cdef stat_t found
        cdef int failed
        with nogil:
            failed = fstat(number, &found)
        if failed:  # pragma: no cover - the descriptor is open
            PyErr_SetFromErrno(OSError)
        return S_ISREG(found.st_mode), found.st_size, modified(&found)


cdef class FilePart:
    """A part of a file; the base of `FilePieces`."""

    def __init__(self, OpenFile file not None, int64_t start, int64_t size):
        self.file = file
        self.at = start
        self.size = self.left = size

    def send(self, conn):
        return self.send_some(conn)

    cdef int64_t send_some(self, conn) except? -3:
        cdef int number = self.file.open().number
        cdef int64_t count = min(self.left, SENT)
        cdef int64_t sent
        if self.at < self.cold_until:
            return UNABLE
        if not is_cached(number, self.at + count - 1):
            self.cold_until = self.at + count
            return UNABLE
        if isinstance(conn, Filtered):
            sent = Filtered._send_file(<Filtered>conn, number, self.at, count)
        else:
            sent = conn._send_file(number, self.at, count)
        if sent > 0:
            self.at += sent
            self.left -= sent
        return sent


cdef int64_t modified(const stat_t *found) noexcept:
    return found.st_mtim.tv_sec * 1_000_000_000 + found.st_mtim.tv_nsec


# ------------------------------------------------------------------------- as a response

cdef object OK = 200
cdef object RESPONSE = None, FILE = None, PART = None  # their classes
cdef object type_of = None, fields_of = None
cdef dict known = {}  # by paths, of Known
cdef Py_ssize_t most_known = 0


cdef class Known:
    """What the head of a response says about a file of this size and age."""

    cdef object type
    cdef tuple fields
    cdef int64_t size, modified


def use(response, file, part, type_function, fields_function, Py_ssize_t remembered):
    """Use these classes, and what returns the type of a path, and the fields of a file."""
    global RESPONSE, FILE, PART, type_of, fields_of, most_known
    if not (
        issubclass(response, Answer) and issubclass(file, OpenFile) and issubclass(part, FilePart)
    ):
        raise TypeError("they derive from Answer, OpenFile and FilePart")
    RESPONSE, FILE, PART = response, file, part
    type_of, fields_of, most_known = type_function, fields_function, remembered


def plain_file(path, int flags):
    cdef const char *name
    cdef Py_ssize_t size = 0
    cdef int number, failed = 0
    cdef stat_t found
    cdef Descriptor descriptor
    cdef OpenFile file
    cdef FilePart part
    cdef Answer response
    cdef Known about
    if type(path) is not str or not PyUnicode_IS_COMPACT_ASCII(path):
        return None
    name = PyUnicode_AsUTF8AndSize(path, &size)
    if <Py_ssize_t>strlen(name) != size:
        return None
    PySys_Audit("open", "OOi", <PyObject *>path, <PyObject *>None, flags)
    descriptor = Descriptor.__new__(Descriptor)
    with nogil:
        number = open_file(name, flags)
        if number >= 0:
            failed = fstat(number, &found)
    descriptor.number = number
    if number < 0 or failed or not S_ISREG(found.st_mode):
        return None  # and `_opened_file` says why
    about = about_file(path, &found)
    file = <OpenFile>new(FILE)
    file.descriptor = descriptor
    file.modified = about.modified
    part = <FilePart>new(PART)
    part.file = file
    part.size = part.left = about.size
    response = <Answer>new(RESPONSE)
    response.body = part
    response.status = OK
    response.content_type = about.type
    response._fields = about.fields
    return response


cdef Known about_file(object path, const stat_t *found):
    cdef PyObject *kept = PyDict_GetItem(known, path)
    cdef int64_t changed = modified(found)
    cdef Known about
    if kept != NULL:
        about = <Known>kept
        if about.size == found.st_size and about.modified == changed:
            return about
    about = Known.__new__(Known)
    about.size = found.st_size
    about.modified = changed
    about.type = type_of(path)
    about.fields = fields_of(found.st_size, changed)
    if len(known) >= most_known:
        known.clear()
    known[path] = about
    return about
