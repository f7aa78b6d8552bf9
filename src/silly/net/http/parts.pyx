"""Open files, and parts of them as bodies of responses; natively, see `bases.py`.

A file that is in memory is sent with few system calls, so what Python does around them is most of
what a short one costs, and a good part of what a long one does.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport int64_t

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

cdef extern from "<unistd.h>" nogil:
    int close(int file)

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

    def __cinit__(self, int number):
        self.number = number

    def __dealloc__(self):
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

    def close(self):
        self.descriptor = None

    def status(self):
        cdef int number = self.open().number
        cdef stat_t found
        cdef int failed
        with nogil:
            failed = fstat(number, &found)
        if failed:
            PyErr_SetFromErrno(OSError)
        return (
            S_ISREG(found.st_mode),
            found.st_size,
            found.st_mtim.tv_sec * 1_000_000_000 + found.st_mtim.tv_nsec,
        )


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
        sent = conn._send_file(number, self.at, count)
        if sent > 0:
            self.at += sent
            self.left -= sent
        return sent
