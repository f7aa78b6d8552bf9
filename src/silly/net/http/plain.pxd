cdef class Head:
    cdef dict __dict__
    cdef object __weakref__
    cdef public object method, version, content_length
    cdef public object conn, _connection, _body
    cdef public bint is_plain, is_complete
    cdef object target, fields
    cdef bytes data  # ... where both are, until somebody asks for them
    cdef Py_ssize_t target_start, target_end, fields_start

    cdef list raw_fields(self)
    cdef bint is_simple(self) except -1


cdef class Answer:
    cdef dict __dict__
    cdef object __weakref__
    cdef public object body, status, content_type, _fields

    cdef bytes encode(self, Head request)


cdef class Counts:
    cdef dict counts
    cdef str last_method  # what was counted last ...
    cdef object last_status
    cdef long last_count  # ... how often, and is not in `counts` yet

    cdef int add_last(self) except -1
    cpdef add(self, str method, status)


cdef object new(kind)  # an object that is not initialized
cdef bytes status_line(int status)
cdef bytes date()  # the field, with its line break
cdef long checked_status(status) except -2
