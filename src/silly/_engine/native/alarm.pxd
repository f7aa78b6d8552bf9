from libc.stdint cimport uint64_t


cdef class Alarm:
    cdef int fd  # -1: none
    cdef double moment  # when it will be ready; `UNSET`: not any more

    cdef bint set(self, int epoll, uint64_t event, double moment) noexcept
    cdef void forget(self) noexcept
    cdef void close(self) noexcept


cdef Alarm new_alarm()
