"""Linux system calls, and parts of Python's C API that Cython does not declare."""

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLET


cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value


cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *due, itimerspec *before)
    enum:
        TFD_CLOEXEC
        TFD_NONBLOCK
        TFD_TIMER_ABSTIME


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        pass
    cdef struct linger_t "linger":
        int l_onoff
        int l_linger
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    ssize_t recv(int fd, void *buf, size_t len, int flags)
    ssize_t send(int fd, const void *buf, size_t len, int flags)
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    int accept4(int fd, sockaddr *addr, socklen_t *len, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
    int getsockname(int fd, sockaddr *addr, socklen_t *len)
    int getpeername(int fd, sockaddr *addr, socklen_t *len)
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        MSG_MORE
        MSG_NOSIGNAL
        MSG_TRUNC
        SHUT_WR
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOL_SOCKET
        SO_ACCEPTCONN
        SO_LINGER
        SO_TYPE


cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_IP
        IPPROTO_IPV6
        IPPROTO_TCP
        IP_TRANSPARENT
        IPV6_TRANSPARENT
    cdef struct in_addr_t "in_addr":
        uint32_t s_addr
    cdef struct in6_addr_t "in6_addr":
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr_t sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr_t sin6_addr
        uint32_t sin6_scope_id


cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_INFO
        TCP_NODELAY
        TCP_NOTSENT_LOWAT
    cdef struct tcp_info:
        uint32_t tcpi_unacked
        uint32_t tcpi_sacked


cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)
    const char *inet_ntop(int family, const void *src, char *dst, socklen_t size)


cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        uint16_t sun_family
        char sun_path[108]
    cdef struct sockaddr_storage:  # with room for the NUL after a path of 108 bytes (unix(7))
        uint16_t ss_family


cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    enum:
        FIONREAD
        TIOCOUTQ


cdef extern from "<fcntl.h>" nogil:
    int open_file "open"(const char *path, int flags)
    enum:
        O_CLOEXEC
        O_RDONLY


cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef extern from "<string.h>" nogil:
    void *memchr(const void *s, int c, size_t n)
    void *memmem(const void *haystack, size_t size, const void *needle, size_t length)


cdef extern from "<time.h>" nogil:
    int clock_gettime(int clock, timespec *t)
    enum:
        CLOCK_MONOTONIC


cdef extern from *:
    """
    /* Let *bytes* have other contents, if nobody else refers to it, and if it was as long or a
       little longer. Return whether it has. To free it and make another takes four times as long. */
    static inline int silly_refill(PyObject *bytes, const void *data, Py_ssize_t size)
    {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        if (Py_REFCNT(bytes) != 1 || !PyBytes_CheckExact(bytes)
            || size > PyBytes_GET_SIZE(bytes) || size < PyBytes_GET_SIZE(bytes) / 2)
            return 0;
        memcpy(PyBytes_AS_STRING(bytes), data, (size_t)size);
        PyBytes_AS_STRING(bytes)[size] = 0;
        Py_SET_SIZE((PyVarObject *)bytes, size);
        _Py_COMP_DIAG_PUSH
        _Py_COMP_DIAG_IGNORE_DEPR_DECLS
        ((PyBytesObject *)bytes)->ob_shash = -1;
        _Py_COMP_DIAG_POP
        return 1;
    #endif
    }
    """
    bint silly_refill(PyObject *bytes, const void *data, Py_ssize_t size) noexcept

cdef extern from *:
    """
    /* Return the length of all *pieces*; -1 if one is no bytes object, or if it is over *most*. */
    static inline Py_ssize_t silly_total(PyObject **pieces, Py_ssize_t count, Py_ssize_t most)
    {
        Py_ssize_t i, total = 0;
        for (i = 0; i < count; i++) {
            if (!PyBytes_CheckExact(pieces[i]) || PyBytes_GET_SIZE(pieces[i]) > most - total)
                return -1;
            total += PyBytes_GET_SIZE(pieces[i]);
        }
        return total;
    }

    static inline void silly_join(char *place, PyObject **pieces, Py_ssize_t count)
    {
        Py_ssize_t i;
        for (i = 0; i < count; i++) {
            memcpy(place, PyBytes_AS_STRING(pieces[i]), (size_t)PyBytes_GET_SIZE(pieces[i]));
            place += PyBytes_GET_SIZE(pieces[i]);
        }
    }
    """
    Py_ssize_t silly_total(PyObject **pieces, Py_ssize_t count, Py_ssize_t most) noexcept
    void silly_join(char *place, PyObject **pieces, Py_ssize_t count) noexcept

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeASCII(const char *data, Py_ssize_t size, const char *errors)
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    object PyObject_Call(object callable, tuple args, dict kwargs)
    object PyObject_CallNoArgs(object callable)
    object PyObject_CallOneArg(object callable, object arg)
    Py_ssize_t Py_REFCNT(object counted) noexcept
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    int PyIter_Send(object iterator, object value, PyObject **result) except -1
    int send_to "PyIter_Send"(object iterator, object value, PyObject **result) noexcept
    ctypedef struct PyAsyncMethods:
        void *am_aiter
        void *am_send
    ctypedef struct PyTypeObject:
        PyAsyncMethods *tp_as_async
        void *tp_iternext
    void PyType_Modified(PyTypeObject *type)
    PyObject *_PyType_Lookup(PyTypeObject *type, object name) noexcept
    ctypedef object (*PyCFunction)(object owner, object argument)
    ctypedef struct PyMethodDef:
        PyCFunction ml_meth
        int ml_flags
    int METH_O
    ctypedef struct PyMethodDescrObject:
        PyMethodDef *d_method
    ctypedef struct PyCFunctionObject:
        PyMethodDef *m_ml
        PyObject *m_self
    bint PyCFunction_CheckExact(object callable) noexcept
    object PyCFunction_New(PyMethodDef *method, object owner)
    object PyDescr_NewMethod(PyTypeObject *type, PyMethodDef *method)


cdef extern from *:
    """
    static inline void silly_set_errno(int error) { errno = error; }

    /* Makes a TypeError of instantiating this class in Python code, which cannot
       initialize its objects correctly. */
    static inline void silly_forbid_instantiation(PyTypeObject *kind) {
    #if PY_VERSION_HEX >= 0x030C0000
        PyObject *dict = PyType_GetDict(kind);
    #else
        PyObject *dict = Py_XNewRef(kind->tp_dict);
    #endif
        kind->tp_new = NULL;
        kind->tp_vectorcall = NULL;
        kind->tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
        if (dict == NULL || PyDict_DelItemString(dict, "__new__") < 0) PyErr_Clear();
        Py_XDECREF(dict);
        PyType_Modified(kind);
    }

    /* These return whether they succeeded, or nothing, instead of raising. */
    static inline int silly_call_two(PyObject *callable, PyObject *first, PyObject *second) {
        PyObject *arguments[3] = {NULL, first, second};
        PyObject *result = PyObject_Vectorcall(
            callable, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        if (result == NULL) {
            PyErr_Clear();
            return 0;
        }
        Py_DECREF(result);
        return 1;
    }
    static inline PyObject *silly_set_default(PyObject *dict, PyObject *key, PyObject *value) {
        PyObject *found = PyDict_SetDefault(dict, key, value);
        if (found == NULL) PyErr_Clear();
        return found;
    }
    static inline void silly_discard(PyObject *dict, PyObject *key) {
        if (PyDict_DelItem(dict, key) < 0) PyErr_Clear();
    }
    static inline void silly_leave_context(PyObject *context) {
        if (PyContext_Exit(context) < 0) PyErr_WriteUnraisable(context);
    }
    static inline int silly_enter_context(PyObject *context) {
        if (PyContext_Enter(context) == 0) return 1;
        PyErr_Clear();
        return 0;
    }

    static inline PyObject *silly_take_raised(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *kind, *value, *traceback;
        PyErr_Fetch(&kind, &value, &traceback);
        PyErr_NormalizeException(&kind, &value, &traceback);
        if (traceback != NULL) PyException_SetTraceback(value, traceback);
        Py_XDECREF(kind);
        Py_XDECREF(traceback);
        return value;
    #endif
    }

    /* Raises the exception given there, as the error of an am_send: nothing is given then. A
       `raise` in Cython would add a traceback in each function that it leaves. */
    static inline int silly_raise_given(PyObject **given) {
        PyObject *error = *given;
        *given = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return -1;
    }

    /* As an object, which costs less than to let the interpreter make it. */
    static inline int silly_stop_async_iteration(void) {
        PyTypeObject *kind = (PyTypeObject *)PyExc_StopAsyncIteration;
        PyObject *arguments = PyTuple_New(0);
        PyObject *error = arguments == NULL ? NULL : kind->tp_new(kind, arguments, NULL);
        if (error != NULL) PyErr_SetObject(PyExc_StopAsyncIteration, error);
        Py_XDECREF(arguments);
        Py_XDECREF(error);
        return -1;
    }

    /* Raises StopIteration(value), stealing the reference. Python 3.12 and later create the
       exception object immediately; here, the last one is reused if nothing refers to it. */
    static inline void silly_stop_iteration(PyObject *value) {
    #if PY_VERSION_HEX >= 0x030C0000 && !defined(Py_GIL_DISABLED)
        static PyObject *last = NULL;
        if (PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) <= 4096) {
            if (last == NULL || Py_REFCNT(last) > 1) {
                Py_XDECREF(last);
                last = PyObject_CallNoArgs(PyExc_StopIteration);
            }
            if (last != NULL) {
                Py_XSETREF(((PyStopIterationObject *)last)->value, value);
                PyErr_SetRaisedException(Py_NewRef(last));
                return;
            }
            PyErr_Clear();
        }
    #endif
        PyErr_SetObject(PyExc_StopIteration, value);
        Py_DECREF(value);
    }
    """
    void set_errno "silly_set_errno"(int error) noexcept nogil
    void forbid_instantiation "silly_forbid_instantiation"(PyTypeObject *kind) noexcept
    bint call_two "silly_call_two"(object callable, object first, object second) noexcept
    bint enter_context "silly_enter_context"(object context) noexcept
    void leave_context "silly_leave_context"(object context) noexcept
    PyObject *set_default "silly_set_default"(dict kept, object key, object value) noexcept
    void discard "silly_discard"(dict kept, object key) noexcept
    object take_raised "silly_take_raised"()
    int raise_given "silly_raise_given"(PyObject **given) noexcept
    int stop_async_iteration "silly_stop_async_iteration"() noexcept
    void stop_iteration "silly_stop_iteration"(PyObject *value) noexcept


cdef extern from "pthread.h" nogil:
    int pthread_atfork(
        void (*prepare)() noexcept nogil,
        void (*parent)() noexcept nogil,
        void (*child)() noexcept nogil,
    )


cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *address) noexcept nogil

cdef enum:
    CACHE_LINE = 64  # bytes that are fetched from memory together


cdef inline void fetch(const void *place, size_t size) noexcept nogil:
    """Have the processor fetch *size* bytes into its caches while it is busy with others."""
    cdef size_t offset = 0
    while offset < size:
        prefetch(<const char *>place + offset)
        offset += CACHE_LINE


cdef inline double monotonic() noexcept nogil:
    """The time in seconds, as `time.monotonic`."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef inline int set_slots(object kind, void *send, void *next) except -1:
    """Set the slot am_send of a type, and tp_iternext if *next* is not NULL.

    Cython has no syntax for am_send. It returns 0 for PYGEN_RETURN, 1 for PYGEN_NEXT, -1 for
    PYGEN_ERROR (see PyIter_Send in the C API).
    """
    cdef PyTypeObject *slots = <PyTypeObject *>kind
    slots.tp_as_async.am_send = send
    if next != NULL:
        slots.tp_iternext = next
    forbid_instantiation(slots)
    return 0
