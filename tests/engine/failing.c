/* Preloaded into a program that says which of its next system calls fail, and how. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static struct { char call[32]; int error, times; } planned[16];
static int count;

/* Of the calls of this name, let the next *times* fail (-1: all), after those planned before. */
void fail(const char *call, int error, int times) {
    strncpy(planned[count].call, call, sizeof(planned[count].call) - 1);
    planned[count].error = error;
    planned[count++].times = times;
}

/* Forget the plans; return how many of them were not carried out. */
int stop_failing(void) {
    int left = 0;
    for (int i = 0; i < count; i++) left += planned[i].times > 0;
    memset(planned, 0, sizeof(planned));
    count = 0;
    return left;
}

static int fails(const char *call) {
    for (int i = 0; i < count; i++)
        if (planned[i].times && strcmp(planned[i].call, call) == 0) {
            if (planned[i].times > 0) planned[i].times--;
            return errno = planned[i].error, 1;
        }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int accept4(int fd, struct sockaddr *name, socklen_t *length, int flags) {
    return fails("accept4") ? -1 : REAL(accept4)(fd, name, length, flags);
}

int epoll_create1(int flags) {
    return fails("epoll_create1") ? -1 : REAL(epoll_create1)(flags);
}

int timerfd_create(int clock, int flags) {
    return fails("timerfd_create") ? -1 : REAL(timerfd_create)(clock, flags);
}

int timerfd_settime(int fd, int flags, const struct itimerspec *due, struct itimerspec *before) {
    return fails("timerfd_settime") ? -1 : REAL(timerfd_settime)(fd, flags, due, before);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    return fails("send") ? -1 : REAL(send)(fd, data, size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return fails("sendmsg") ? -1 : REAL(sendmsg)(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    return fails("sendmmsg") ? -1 : REAL(sendmmsg)(fd, messages, count, flags);
}

int getsockname(int fd, struct sockaddr *name, socklen_t *length) {
    return fails("getsockname") ? -1 : REAL(getsockname)(fd, name, length);
}

/* Only of a datagram socket's counters. */
int getsockopt(int fd, int level, int option, void *value, socklen_t *length) {
    if (level == SOL_SOCKET && option == SO_MEMINFO && fails("counters")) return -1;
    return REAL(getsockopt)(fd, level, option, value, length);
}

/* Only where a descriptor is added: a listener, another socket, an epoll set. */
int epoll_ctl(int set, int operation, int fd, struct epoll_event *event) {
    int listens;
    socklen_t length = sizeof(listens);
    if (operation == EPOLL_CTL_ADD) {
        int is_socket = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0;
        if (fails(!is_socket ? "watch set" : listens ? "watch listener" : "watch connection"))
            return -1;
    }
    return REAL(epoll_ctl)(set, operation, fd, event);
}

/* Only of blocks that hold what connections and sockets have not read or sent. */
void *malloc(size_t size) {
    static void *(*real)(size_t);
    if (real == NULL) real = REAL(malloc);
    return size >= 60000 && fails("malloc") ? NULL : real(size);
}

void *realloc(void *block, size_t size) {
    static void *(*real)(void *, size_t);
    if (real == NULL) real = REAL(realloc);
    return size >= 60000 && fails("realloc") ? NULL : real(block, size);
}

/* Only that of a descriptor to be held in reserve. */
#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                     \
        if (strcmp(path, "/dev/null") == 0 && fails("open")) return -1;   \
        return REAL(name)(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)
