from libc.stdint cimport uint64_t

from silly.net.http.plain cimport Head, KnownFields


cdef class Scopes:
    cdef dict template  # what the last scope was made of ...
    cdef dict scope  # ... and that scope, if it is used again
    cdef uint64_t version  # ... as it was made
    cdef list headers  # parts of it ...
    cdef dict extensions, state
    cdef uint64_t extensions_version, state_version, own_version  # ... and what these were
    cdef object client, method  # what else it has
    cdef bytes raw_path, query
    cdef KnownFields known  # its fields

    cdef dict scope_of(self, Head request, tuple memo, dict state)
    cdef list fields_of(self, Head request)
    cdef bint knows(self, KnownFields known) noexcept
    cdef bint has_own_headers(self) noexcept
    cdef bint is_as_made(self, dict scope) noexcept
    cdef int take_back(self, dict scope) except -1


cdef Scopes new_scopes()
