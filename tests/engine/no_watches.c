/* Preloaded: while the file named by NO_WATCHES exists, no connected socket can be added to
 * an epoll set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int epoll_ctl(int set, int operation, int fd, struct epoll_event *event) {
    __typeof__(&epoll_ctl) real = (__typeof__(&epoll_ctl))dlsym(RTLD_NEXT, "epoll_ctl");
    int listens = 0;
    socklen_t length = sizeof(listens);
    const char *name = getenv("NO_WATCHES");
    if (operation == EPOLL_CTL_ADD && name != NULL && access(name, F_OK) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 && !listens)
        return errno = ENOSPC, -1;
    return real(set, operation, fd, event);
}
