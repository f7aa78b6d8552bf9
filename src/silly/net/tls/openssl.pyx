"""One end of a TLS connection, as `session.Session`, for which OpenSSL uses our buffers directly.

The `ssl` module's object is made, and does the handshake, as always: contexts, certificates and
errors are its own. But OpenSSL gets a BIO (BIO_meth_new(3)) that reads from the buffer that the
socket was received into, and writes to the one that is sent. So encrypted bytes pass without
objects and without copies of ours. Afterwards, SSL_read(3) and SSL_write(3) are called directly.

They are functions of the library that Python itself has loaded, found at run time: nothing
of OpenSSL is needed to build this. That the interpreter keeps its pointers where this module
expects them is checked when it is imported. `REASON` says why it cannot be used.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.dlfcn cimport RTLD_LAZY, dlopen, dlsym

from silly._engine.native.records cimport Records, Wire, add_to, free_wire

import os
import ssl

from silly.net.tls.failures import explained
from silly.net.tls.info import TLSInfo
from silly.net.tls.session import chain_of, connection_of

cdef extern from "<dlfcn.h>" nogil:
    enum:
        RTLD_NOLOAD

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1

cdef enum:  # bytes
    HEADER = 5
    MOST = 1 << 30  # in one call

cdef enum:  # of OpenSSL: ssl.h and bio.h
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_ZERO_RETURN = 6
    SSL_CTRL_SET_READ_AHEAD = 41
    BIO_TYPE_SOURCE_SINK = 0x0400
    BIO_CTRL_FLUSH = 11
    BIO_FLAGS_READ = 0x01
    BIO_FLAGS_RETRIES = 0x0F
    BIO_FLAGS_SHOULD_RETRY = 0x08

cdef:
    int (*SSL_read)(void *, void *, int) noexcept nogil
    int (*SSL_write)(void *, const void *, int) noexcept nogil
    int (*SSL_shutdown)(void *) noexcept nogil
    int (*SSL_do_handshake)(void *) noexcept nogil
    int (*SSL_get_error)(const void *, int) noexcept nogil
    int (*SSL_has_pending)(const void *) noexcept nogil
    void (*SSL_set_bio)(void *, void *, void *) noexcept nogil
    void (*SSL_set_read_ahead)(void *, int) noexcept nogil
    void *(*SSL_get_SSL_CTX)(const void *) noexcept nogil
    const char *(*SSL_get_version)(const void *) noexcept nogil
    const void *(*SSL_get_current_cipher)(const void *) noexcept nogil
    const char *(*SSL_CIPHER_get_name)(const void *) noexcept nogil
    void (*SSL_get0_alpn_selected)(const void *, const char **, unsigned int *) noexcept nogil
    int (*SSL_session_reused)(const void *) noexcept nogil
    int (*SSL_CTX_set_ciphersuites)(void *, const char *) noexcept nogil
    unsigned long (*ERR_peek_error)() noexcept nogil
    void (*ERR_clear_error)() noexcept nogil
    void *(*BIO_new)(void *) noexcept nogil
    void *(*BIO_get_data)(void *) noexcept nogil
    void (*BIO_set_data)(void *, void *) noexcept nogil
    void (*BIO_set_init)(void *, int) noexcept nogil
    void (*BIO_set_flags)(void *, int) noexcept nogil
    void (*BIO_clear_flags)(void *, int) noexcept nogil
    int (*BIO_get_new_index)() noexcept nogil
    void *(*BIO_meth_new)(int, const char *) noexcept nogil
    int (*BIO_meth_set)(void *, void *) noexcept nogil
    void *bio_method = NULL


cdef struct Call:  # what the BIO reads and writes during a call of OpenSSL
    const uint8_t *data
    size_t left
    Wire *answer


cdef int bio_read(void *bio, char *into, int size) noexcept nogil:
    cdef Call *call = <Call *>BIO_get_data(bio)
    cdef size_t count
    BIO_clear_flags(bio, BIO_FLAGS_RETRIES)
    if call == NULL or call.left == 0 or size <= 0:
        BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
        return -1
    count = min(call.left, <size_t>size)
    memcpy(into, call.data, count)
    call.data += count
    call.left -= count
    return <int>count


cdef int bio_write(void *bio, const char *data, int size) noexcept nogil:
    cdef Call *call = <Call *>BIO_get_data(bio)
    BIO_clear_flags(bio, BIO_FLAGS_RETRIES)
    if call == NULL or size <= 0 or not add_to(call.answer, data, <size_t>size):
        return -1
    return size


cdef long bio_ctrl(void *bio, int command, long number, void *pointer) noexcept nogil:
    return command == BIO_CTRL_FLUSH


cdef int bio_create(void *bio) noexcept nogil:
    BIO_set_init(bio, 1)
    return 1


cdef object new_tuple = tuple.__new__
cdef object UNUSED_IN = ssl.MemoryBIO()  # a session replaces them at once
cdef object UNUSED_OUT = ssl.MemoryBIO()


cdef class Session(Records):
    """See `session.Session`."""

    cdef object connection  # the `ssl` module's, and what it needs
    cdef object owner
    cdef readonly object info  # what was negotiated; None until the handshake is complete
    cdef object server_name
    cdef object remember
    cdef void *ssl  # belongs to the connection
    cdef void *bio  # belongs to ssl
    cdef Wire answer
    # The record that has not arrived completely: its header, how many of its bytes have
    # arrived, and how many are missing if its header is complete.
    cdef uint8_t header[HEADER]
    cdef size_t partial, missing

    def __init__(
        self,
        context,
        *,
        bint is_server,
        server_name=None,
        resumed_from=None,
        remember=None,
        bint is_plain=False,
    ):
        if self.ssl != NULL:
            raise RuntimeError("a session is initialized only once")
        if is_plain:  # as the other does it, without its arguments
            self.connection = context._wrap_bio(UNUSED_IN, UNUSED_OUT, is_server)
        else:
            self.connection, self.owner = connection_of(
                context,
                UNUSED_IN,
                UNUSED_OUT,
                is_server=is_server,
                server_name=server_name,
                resumed_from=resumed_from,
                is_plain=False,
            )
        self.server_name = server_name
        self.remember = remember
        self.ssl = ssl_of(self.connection)
        self.bio = BIO_new(bio_method)
        if self.bio == NULL:
            raise MemoryError  # pragma: no cover
        SSL_set_bio(self.ssl, self.bio, self.bio)  # instead of the two above
        SSL_set_read_ahead(self.ssl, 1)
        if not is_server:
            self.begin()

    def __dealloc__(self):
        free_wire(&self.answer)

    # ---------------------------------------------------------------- the filter

    def open(self, bytes wire):
        """See `silly._engine.interface.Filter.open`."""
        # Plaintext is never longer than what has arrived for it.
        cdef size_t room = self.partial + <size_t>PyBytes_GET_SIZE(wire)
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(wire)
        cdef Call call
        cdef PyObject *plaintext
        cdef Py_ssize_t count = 0
        self.count(data, <size_t>PyBytes_GET_SIZE(wire))
        call.data = data
        call.left = <size_t>PyBytes_GET_SIZE(wire)
        call.answer = &self.answer
        BIO_set_data(self.bio, &call)
        try:
            if not self.is_ready and not self.shake():
                return b""
            result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>room)
            count = self.read_all(&call, <uint8_t *>PyBytes_AS_STRING(<bytes>result), room)
        finally:
            BIO_set_data(self.bio, NULL)
        if count or self.is_ended:
            self.offer_session()
        return (<bytes>result)[:count]

    def seal(self, bytes plaintext):
        """See `silly._engine.interface.Filter.seal`."""
        cdef Wire sealed
        sealed.data = NULL
        sealed.length = sealed.capacity = 0
        try:
            self.seal_into(
                <const uint8_t *>PyBytes_AS_STRING(plaintext),
                <size_t>PyBytes_GET_SIZE(plaintext),
                &sealed,
            )
            return taken(&sealed)
        finally:
            free_wire(&sealed)

    def pending(self):
        """See `silly._engine.interface.Filter.pending`."""
        if self.answer.length == 0:
            return b""
        pending = taken(&self.answer)
        free_wire(&self.answer)
        return pending

    def finish(self):
        """Return the alert "close_notify" (RFC 8446, section 6.1)."""
        cdef Call call
        self.offer_session()
        call.left = 0
        call.answer = &self.answer
        BIO_set_data(self.bio, &call)
        SSL_shutdown(self.ssl)
        BIO_set_data(self.bio, NULL)
        if ERR_peek_error():
            ERR_clear_error()
        return self.pending()

    @property
    def peer_chain(self):
        """See `session.chain_of`."""
        return chain_of(self.connection)

    @property
    def unopened(self):
        """See `silly._engine.interface.Filter.unopened`."""
        return self.partial

    # ----------------------------------------------------- without Python objects

    cdef Py_ssize_t open_into(
        self, const uint8_t *wire, size_t size, uint8_t *place, size_t room, Wire *answer
    ) except -1:
        cdef Call call
        cdef Py_ssize_t count
        self.count(wire, size)
        call.data = wire
        call.left = size
        call.answer = answer
        BIO_set_data(self.bio, &call)
        try:
            count = self.read_all(&call, place, room)
        finally:
            BIO_set_data(self.bio, NULL)
        if self.remember is not None and (count or self.is_ended):
            self.offer_session()
        return count

    cdef int seal_into(self, const uint8_t *plaintext, size_t size, Wire *sealed) except -1:
        cdef Call call
        cdef int count
        call.left = 0
        call.answer = sealed
        BIO_set_data(self.bio, &call)
        try:
            if ERR_peek_error():
                ERR_clear_error()
            while size:
                count = SSL_write(self.ssl, plaintext, <int>min(size, <size_t>MOST))
                if count <= 0:
                    raise self.failure(self.connection.write, b"\0")
                plaintext += count
                size -= <size_t>count
        finally:
            BIO_set_data(self.bio, NULL)
        return 0

    # ----------------------------------------------------------------- internals

    cdef int begin(self) except -1:
        """Make the client's first message."""
        cdef Call call
        call.left = 0
        call.answer = &self.answer
        BIO_set_data(self.bio, &call)
        try:
            self.shake()
        finally:
            BIO_set_data(self.bio, NULL)
        return 0

    cdef bint shake(self) except -1:
        """Continue the handshake; return whether it is complete."""
        cdef int result
        if ERR_peek_error():
            ERR_clear_error()
        with nogil:  # it takes long, and may call the program (for a certificate by name)
            result = SSL_do_handshake(self.ssl)
        if result != 1:
            if SSL_get_error(self.ssl, result) != SSL_ERROR_WANT_READ:
                self.error = self.failure(self.connection.do_handshake)
            return False
        self.is_ready = True
        self.info = self.negotiated()
        return True

    cdef object negotiated(self):
        """See `session.negotiated`."""
        cdef const char *alpn = NULL
        cdef unsigned int length = 0
        SSL_get0_alpn_selected(self.ssl, &alpn, &length)
        return new_tuple(TLSInfo, (
            SSL_get_version(self.ssl).decode(),
            SSL_CIPHER_get_name(SSL_get_current_cipher(self.ssl)).decode(),
            alpn[:length].decode() if length else None,
            self.server_name,
            self.connection.getpeercert(True),
            SSL_session_reused(self.ssl) == 1,
        ))

    cdef Py_ssize_t read_all(self, Call *call, uint8_t *place, size_t room) except -1:
        """Put the plaintext of all records that are complete at *place*; return its length."""
        cdef size_t length = 0
        cdef int count, problem
        if ERR_peek_error():
            ERR_clear_error()
        while length < room:
            count = SSL_read(self.ssl, place + length, <int>min(room - length, <size_t>MOST))
            if count > 0:
                length += <size_t>count
                if call.left or SSL_has_pending(self.ssl):
                    continue
                break
            problem = SSL_get_error(self.ssl, count)
            if problem == SSL_ERROR_ZERO_RETURN:
                self.is_ended = True
            elif problem != SSL_ERROR_WANT_READ:
                self.error = self.failure(self.connection.read, 1)
            break
        return <Py_ssize_t>length

    cdef object failure(self, object method, object argument=None):
        """Return the exception for what OpenSSL has just reported.

        The `ssl` module makes it: *method* fails again, and leaves the first report in force.
        """
        try:
            method() if argument is None else method(argument)
        except ssl.SSLError as error:
            return explained(error)
        # It has not failed again: there was no memory, for example.
        return ssl.SSLError(ssl.SSL_ERROR_SSL, "the connection failed")  # pragma: no cover

    cdef int offer_session(self) except -1:
        """See `session.Session`."""
        if self.remember is not None and (session := self.connection.session) is not None:
            remember, self.remember = self.remember, None
            remember(session)
        return 0

    cdef int count(self, const uint8_t *wire, size_t size) except -1:
        """Count the bytes of the incomplete record; see `session.Records`."""
        cdef size_t length
        if self.partial == 0 and size >= HEADER and size == HEADER + length_in(wire):
            return 0  # exactly a record
        while size:
            if self.missing == 0:
                while self.partial < HEADER and size:
                    self.header[self.partial] = wire[0]
                    self.partial += 1
                    wire += 1
                    size -= 1
                if self.partial < HEADER:
                    return 0
                self.missing = length_in(self.header)
            length = min(self.missing, size)
            wire += length
            size -= length
            self.partial += length
            self.missing -= length
            if self.missing == 0:
                self.partial = 0
        return 0


cdef inline size_t length_in(const uint8_t *header) noexcept:
    return <size_t>header[3] << 8 | header[4]


cdef inline bytes taken(Wire *wire):
    return PyBytes_FromStringAndSize(<const char *>wire.data, <Py_ssize_t>wire.length)


def set_ciphersuites(context, str names):
    """Set the cipher suites of TLS 1.3, the preferred first, as SSL_CTX_set_ciphersuites(3).

    From Python 3.15 on, the `ssl` module's contexts have a method for it.
    """
    encoded = names.encode()
    if SSL_CTX_set_ciphersuites(openssl_context(context), encoded) != 1:
        ERR_clear_error()
        raise ValueError(f"unknown cipher suites: {names!r}")


# ------------------------------------------------------- the library that Python has loaded


cdef inline void *openssl_context(object context):
    return (<void **><PyObject *>context)[2]  # its third word; `check_layout` makes sure


cdef void *ssl_of(object connection) except NULL:
    """Return OpenSSL's object of the `ssl` module's: its fourth word (Modules/_ssl.c)."""
    cdef object context = connection.context
    cdef void **words = <void **><PyObject *>connection
    # The weak reference to a socket, of which there is none; SSL; its context.
    if words[2] != NULL or words[3] == NULL or words[4] != <void *><PyObject *>context:
        raise RuntimeError("the ssl module's objects are of an unknown layout")
    return words[3]


cdef int find(void *library, const char *name, void **function) except -1:
    function[0] = dlsym(library, name)
    if function[0] == NULL:
        raise RuntimeError(f"OpenSSL's {name.decode()} was not found")
    return 0


cdef object load():
    """Find OpenSSL; return why it cannot be used, or None."""
    cdef void *library
    try:
        import _ssl
        if not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
            return f"it is {ssl.OPENSSL_VERSION}"
        if not hasattr(_ssl, "__file__"):
            return "it is built into the interpreter"
        path = os.fsencode(_ssl.__file__)
        library = dlopen(<const char *>path, RTLD_LAZY | RTLD_NOLOAD)
        if library == NULL:
            return "the ssl module's library was not found"
        find_all(library)
        make_bio_method(library)
        check_layout()
    except Exception as error:
        return str(error)
    return None


cdef int find_all(void *library) except -1:
    find(library, b"SSL_read", <void **>&SSL_read)
    find(library, b"SSL_write", <void **>&SSL_write)
    find(library, b"SSL_shutdown", <void **>&SSL_shutdown)
    find(library, b"SSL_do_handshake", <void **>&SSL_do_handshake)
    find(library, b"SSL_get_error", <void **>&SSL_get_error)
    find(library, b"SSL_has_pending", <void **>&SSL_has_pending)
    find(library, b"SSL_set_bio", <void **>&SSL_set_bio)
    find(library, b"SSL_set_read_ahead", <void **>&SSL_set_read_ahead)
    find(library, b"SSL_get_SSL_CTX", <void **>&SSL_get_SSL_CTX)
    find(library, b"SSL_get_version", <void **>&SSL_get_version)
    find(library, b"SSL_get_current_cipher", <void **>&SSL_get_current_cipher)
    find(library, b"SSL_CIPHER_get_name", <void **>&SSL_CIPHER_get_name)
    find(library, b"SSL_get0_alpn_selected", <void **>&SSL_get0_alpn_selected)
    find(library, b"SSL_session_reused", <void **>&SSL_session_reused)
    find(library, b"SSL_CTX_set_ciphersuites", <void **>&SSL_CTX_set_ciphersuites)
    find(library, b"ERR_peek_error", <void **>&ERR_peek_error)
    find(library, b"ERR_clear_error", <void **>&ERR_clear_error)
    find(library, b"BIO_new", <void **>&BIO_new)
    find(library, b"BIO_get_data", <void **>&BIO_get_data)
    find(library, b"BIO_set_data", <void **>&BIO_set_data)
    find(library, b"BIO_set_init", <void **>&BIO_set_init)
    find(library, b"BIO_set_flags", <void **>&BIO_set_flags)
    find(library, b"BIO_clear_flags", <void **>&BIO_clear_flags)
    find(library, b"BIO_get_new_index", <void **>&BIO_get_new_index)
    find(library, b"BIO_meth_new", <void **>&BIO_meth_new)
    return 0


cdef int make_bio_method(void *library) except -1:
    global bio_method
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"silly")
    if bio_method == NULL:
        raise MemoryError  # pragma: no cover
    find(library, b"BIO_meth_set_read", <void **>&BIO_meth_set)
    BIO_meth_set(bio_method, <void *>bio_read)
    find(library, b"BIO_meth_set_write", <void **>&BIO_meth_set)
    BIO_meth_set(bio_method, <void *>bio_write)
    find(library, b"BIO_meth_set_ctrl", <void **>&BIO_meth_set)
    BIO_meth_set(bio_method, <void *>bio_ctrl)
    find(library, b"BIO_meth_set_create", <void **>&BIO_meth_set)
    BIO_meth_set(bio_method, <void *>bio_create)
    return 0


cdef int check_layout() except -1:
    """Check that `ssl_of` returns what it should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    if SSL_get_SSL_CTX(ssl_of(connection._sslobj)) != openssl_context(context):
        # Of another version of Python.
        raise RuntimeError("the ssl module's objects are of an unknown layout")  # pragma: no cover
    return 0


REASON = load()
