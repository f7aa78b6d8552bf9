from libc.stdint cimport uint8_t


cdef class KnownFields:
    cdef bytes data  # where they are ...
    cdef Py_ssize_t start, size  # ... with the line that ends them; 0: there are none
    cdef Py_ssize_t count
    cdef Py_ssize_t length  # the Content-Length; -1: there is none
    cdef list pairs  # None: nobody has asked for them

    cdef list copy(self)


cdef class Head:
    cdef object __weakref__
    cdef public object method, version, content_length
    cdef public object conn, _connection, _body
    cdef public bint is_plain, is_complete
    cdef object matched, mount  # `route` and `root_path`; None: empty
    cdef object raw, fields
    cdef bytes data  # ... where both are, until somebody asks for them
    cdef Py_ssize_t target_start, target_end, fields_start
    cdef KnownFields known  # the same as those in `data`; or None

    cdef list raw_fields(self)
    cdef bint is_simple(self) except -1
    cdef bint may_be_conditional(self) except -1


cdef class PlainRequests:
    cdef public list requests
    cdef Head first  # comes before `requests`, and costs less
    cdef public object error
    cdef public bint ends, is_paused, in_head, is_draining
    cdef readonly bint is_waiting
    cdef readonly size_t taken
    cdef public object _receiving
    cdef object kind  # of requests
    cdef Py_ssize_t left  # bytes of the body that is being received, of a plain request
    cdef Py_ssize_t max_head, max_target, max_fields, max_body, max_pipelined
    cdef bytes host  # the last one that was valid

    cdef int parse(self, bytes data) except -1
    cdef Py_ssize_t take_body(self, bytes data, Py_ssize_t at) except -1
    cdef Py_ssize_t take_head(self, bytes data, Py_ssize_t start) except -1
    cdef KnownFields take_fields(self, bytes data, Py_ssize_t at, Py_ssize_t size)
    cdef object next(self, conn, connection)
    cdef bint is_host(self, const uint8_t *text, Py_ssize_t size) except -1


cdef class Answer:
    cdef object __weakref__
    cdef public object body, status, content_type, _fields

    cdef bytes encode(self, Head request)
    cdef bytes encode_head(self, Head request, Py_ssize_t length)
    cdef bytes encode_as(self, object kind, const char *body, Py_ssize_t size, Py_ssize_t length)


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
