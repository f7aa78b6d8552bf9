/* Preloaded into a server: some of its system calls are short, are interrupted, or fail as on a
 * busy machine. A fixed pseudo-random sequence decides which. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static uint32_t chance(uint32_t of) {
    static uint32_t state = 12345;
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % of;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int fails(const int *errors, int count) {
    if (chance(3)) return 0;
    errno = errors[chance(count)];
    return 1;
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    static const int errors[] = {EAGAIN, EINTR};
    REAL(recv);
    if (fails(errors, 2)) return -1;
    return real(fd, data, size && chance(2) ? 1 + chance(size < 16 ? size : 16) : size, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    static const int errors[] = {EAGAIN, EINTR, ENOBUFS, ENOMEM};
    REAL(send);
    if (fails(errors, 4)) return -1;
    return real(fd, data, size && chance(2) ? 1 + chance(size) : size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static const int errors[] = {EAGAIN, EINTR, ENOBUFS, ENOMEM};
    REAL(sendmsg);
    if (fails(errors, 4)) return -1;
    return real(fd, message, flags);
}

int accept4(int fd, struct sockaddr *name, socklen_t *length, int flags) {
    static const int errors[] = {EINTR, ECONNABORTED, EPROTO};
    static int calls;
    REAL(accept4);
    if (++calls == 3) return errno = ENOMEM, -1;
    if (calls == 6) return errno = ENOBUFS, -1;
    if (fails(errors, 3)) return -1;
    return real(fd, name, length, flags);
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout) {
    REAL(epoll_wait);
    if (timeout == 0 && !chance(4)) return errno = EINTR, -1;
    return real(fd, events, count > 3 ? 3 : count, timeout);
}
