/* What the yardsticks have in common: one thread and one level-triggered epoll set. Each prints its
 * port and serves until it is killed. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256 };

static int ep;

static void watch(int fd, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(ep, op, fd, &e);
}

/* binds a socket of this type to a port of loopback, prints the port, and watches the socket */
static int bound(int type) {
    int one = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof addr;
    if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (void *)&addr, sizeof addr) || (type == SOCK_STREAM && listen(fd, 4096)))
        perror("bind"), exit(1);
    getsockname(fd, (void *)&addr, &length);
    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    return fd;
}

/* accepts connections, and calls these functions: for each new one, if given, and for its events */
static inline __attribute__((always_inline)) void serve(
    void opened(int fd), void ready(int fd, uint32_t events)
) {
    int listener = bound(SOCK_STREAM);
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                ready(fd, events[i].events);
                continue;
            }
            for (int k = 0; k < 64; k++) {
                int made = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (made < 0) break;
                if (opened) opened(made);
                watch(made, EPOLLIN, EPOLL_CTL_ADD);
            }
        }
    }
}
