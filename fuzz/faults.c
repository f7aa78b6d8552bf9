/* Preloaded into the programs of random_programs.py: of 1000 system calls, `per_mille` fail as on
 * a machine that is short of resources, or do less than was asked for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static uint32_t state, chance_of_fault;

void silly_faults(uint32_t seed, uint32_t per_mille) {
    state = seed;
    chance_of_fault = per_mille;
}

static uint32_t chance(uint32_t of) {
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % of;
}

#define REAL(name)                                                        \
    static __typeof__(&name) real;                                        \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define FAULTS(...)                                                       \
    static const int errors[] = {__VA_ARGS__};                            \
    int faulty = chance_of_fault && chance(1000) < chance_of_fault;       \
    int error = errors[faulty ? chance(sizeof(errors) / sizeof(*errors)) : 0]

#define FAIL_IF_FAULTY() if (faulty) return errno = error, -1

/* Small transfers are spared: a loop relies on the one byte that wakes it. */
ssize_t recv(int fd, void *data, size_t size, int flags) {
    REAL(recv);
    FAULTS(EAGAIN, EINTR, ENOMEM, ECONNRESET, ETIMEDOUT, 0, 0, 0, 0);
    if (faulty && error && size > 4096) return errno = error, -1;
    return real(fd, data, faulty && size > 4096 ? 1 + chance(size) : size, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL(send);
    FAULTS(EAGAIN, EINTR, ENOBUFS, ENOMEM, EPIPE, ECONNRESET, 0, 0, 0, 0);
    if (faulty && error && size > 1) return errno = error, -1;
    return real(fd, data, faulty && size > 1 ? 1 + chance(size) : size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    FAULTS(EAGAIN, EINTR, ENOBUFS, ENOMEM, EPIPE);
    FAIL_IF_FAULTY();
    return real(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    REAL(sendmmsg);
    FAULTS(EAGAIN, EINTR, ENOBUFS, ENOMEM, EPERM, ECONNREFUSED, 0, 0, 0);
    if (faulty && error) return errno = error, -1;
    return real(fd, messages, faulty ? 1 + chance(count) : count, flags);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *time) {
    REAL(recvmmsg);
    FAULTS(EAGAIN, EINTR, ENOBUFS, ENOMEM, ECONNREFUSED, 0, 0, 0);
    if (faulty && error) return errno = error, -1;
    return real(fd, messages, faulty ? 1 + chance(count) : count, flags, time);
}

int accept4(int fd, struct sockaddr *name, socklen_t *length, int flags) {
    REAL(accept4);
    FAULTS(EINTR, ECONNABORTED, EPROTO, EMFILE, ENFILE, ENOMEM, ENOBUFS, EINVAL);
    FAIL_IF_FAULTY();
    return real(fd, name, length, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    REAL(epoll_ctl);
    FAULTS(ENOSPC, ENOMEM);
    if (operation == EPOLL_CTL_ADD) FAIL_IF_FAULTY();
    return real(epoll, operation, fd, event);
}

int epoll_create1(int flags) {
    REAL(epoll_create1);
    FAULTS(EMFILE, ENFILE, ENOMEM);
    FAIL_IF_FAULTY();
    return real(flags);
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout) {
    REAL(epoll_wait);
    FAULTS(EINTR);
    if (timeout == 0) FAIL_IF_FAULTY();
    return real(fd, events, faulty && count > 3 ? 3 : count, timeout);
}

int socket(int family, int type, int protocol) {
    REAL(socket);
    FAULTS(EMFILE, ENFILE, ENOBUFS, ENOMEM);
    FAIL_IF_FAULTY();
    return real(family, type, protocol);
}

int getsockname(int fd, struct sockaddr *name, socklen_t *length) {
    REAL(getsockname);
    FAULTS(ENOBUFS);
    FAIL_IF_FAULTY();
    return real(fd, name, length);
}

int getpeername(int fd, struct sockaddr *name, socklen_t *length) {
    REAL(getpeername);
    FAULTS(ENOBUFS, ENOTCONN);
    FAIL_IF_FAULTY();
    return real(fd, name, length);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
    REAL(setsockopt);
    FAULTS(ENOMEM, ENOBUFS, EINVAL);
    FAIL_IF_FAULTY();
    return real(fd, level, option, value, length);
}
