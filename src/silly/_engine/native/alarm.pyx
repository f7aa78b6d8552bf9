"""A timer in an epoll set: with it, waiting until a moment needs no timeout.

For a wait with a timeout, the kernel sets a timer, and cancels it when something else is ready
first. With one busy connection, that is done for each message, and costs as much as a tenth of
its exchange. This one (timerfd_create(2)) stays set, however often the set is waited for.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from silly._engine.native.linux cimport (
    CLOCK_MONOTONIC,
    EPOLL_CTL_ADD,
    EPOLLET,
    EPOLLIN,
    TFD_CLOEXEC,
    TFD_NONBLOCK,
    TFD_TIMER_ABSTIME,
    PyTypeObject,
    close,
    epoll_ctl,
    epoll_event,
    forbid_instantiation,
    itimerspec,
    time_t,
    timerfd_create,
    timerfd_settime,
)


cdef class Alarm:
    """A timer of the monotonic clock, which makes its descriptor ready once."""

    def __cinit__(self):
        self.fd = -1
        self.moment = INFINITY

    def __dealloc__(self):
        self.close()

    cdef bint set(self, int epoll, uint64_t event, double moment) noexcept:
        """Make it ready in *epoll* at *moment*, in seconds; return whether this succeeded."""
        cdef epoll_event watched
        cdef itimerspec due
        cdef int fd = self.fd
        if fd < 0:
            watched.events = EPOLLIN | EPOLLET  # edge-triggered: it need not be read
            watched.data.u64 = event
            fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
            if fd < 0:
                return False
            if epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &watched) < 0:
                close(fd)
                return False
            self.fd = fd
        due.it_interval.tv_sec = due.it_interval.tv_nsec = 0
        due.it_value.tv_sec = <time_t>moment
        due.it_value.tv_nsec = <long>((moment - <double>due.it_value.tv_sec) * 1e9)
        if timerfd_settime(fd, TFD_TIMER_ABSTIME, &due, NULL) < 0:
            return False
        self.moment = moment
        return True

    cdef void forget(self) noexcept:
        """Note that it was ready."""
        self.moment = INFINITY

    cdef void close(self) noexcept:
        """Remove it from its set."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        self.moment = INFINITY


forbid_instantiation(<PyTypeObject *>Alarm)


cdef Alarm new_alarm():
    return Alarm.__new__(Alarm)
