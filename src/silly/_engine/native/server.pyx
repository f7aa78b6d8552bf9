"""The accepting side: one listening socket in a reactor."""

from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint32_t

from silly._engine.native.linux cimport (
    EPOLLIN,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    accept4,
    close,
)
from silly._engine.native.reactor cimport Reactor, Source, reactor_of

import logging
import os

cdef object logger = logging.getLogger("silly.net")

cdef enum:
    AT_ONCE = 64  # connections accepted before others have their turn

cdef double BACK_OFF = 1.0  # seconds, when the system is out of descriptors or memory


cdef class Server(Source):
    """Accepts connections and hands their descriptors to *accept*, until closed."""

    cdef object accept
    cdef object timer

    def __init__(self, loop, int fd, accept, double busy_poll):
        cdef Reactor reactor = reactor_of(loop)
        self.fd = fd
        self.accept = accept
        reactor.add(self)
        reactor.busy_poll = max(reactor.busy_poll, busy_poll)
        self.watch(EPOLLIN)

    cdef int ready(self, uint32_t events) except -1:
        cdef int fd, _
        for _ in range(AT_ONCE):
            if self.fd < 0:
                break
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.greet(fd)
            elif errno == EAGAIN:
                break
            elif errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self.back_off(errno)
                break
            # else of that connection alone (it was aborted, its network failed: accept(2))
        return 0

    cdef int greet(self, int fd) except -1:
        try:
            self.accept(fd)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.reactor.loop.call_exception_handler(
                {"message": "a connection could not be set up", "exception": error}
            )
        return 0

    cdef int back_off(self, int error) except -1:
        self.watch(0)
        self.timer = self.reactor.loop.call_later(BACK_OFF, self._go_on)
        logger.error("cannot accept: %s; trying again in %g s", os.strerror(error), BACK_OFF)
        return 0

    def _go_on(self):
        self.timer = None
        self.watch(EPOLLIN)

    def close(self):
        """Stop accepting and close the listening socket."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.release()
