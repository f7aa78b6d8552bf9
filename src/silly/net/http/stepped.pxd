from silly.net.http.plain cimport Head


cdef class Stepped:
    cdef object advance(self)
    cdef int step(self, void **out) except -1


cdef class Answering(Stepped):
    cdef object status

    cdef bytes encoded(self, Head request)
    cdef object response(self)


cdef class Starter:
    cdef Answering start(self, Head request, object memo)


cdef object UNENCODED
