/* The yardstick: a line echo server ("raw": byte echo) in plain C. One shared receive buffer, and
 * one send for all lines that a receive completes. With "ping", the answer to each line is "+PONG".
 * With "udp", it echoes datagrams: as many as are there with one recvmmsg and one sendmmsg.
 *
 *     yardstick [raw|ping|udp|tls]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "loop.h"

enum { RECEIVE = 65536 };

struct conn {
    char *rest; /* unsent bytes, then an unfinished line */
    size_t size, unsent;
};

static struct conn conns[1 << 20];
static char in[RECEIVE], *out;
static size_t capacity = 4 * RECEIVE;
static int raw, ping;

static void drop(int fd) {
    free(conns[fd].rest);
    conns[fd] = (struct conn){0};
    close(fd);
}

static void keep(int fd, const char *data, size_t size, size_t unsent) {
    struct conn *c = &conns[fd];
    char *rest = size ? malloc(size) : NULL;
    if (size) memcpy(rest, data, size);
    free(c->rest);
    *c = (struct conn){rest, size, unsent};
}

/* writes an answer to out for each newline in the n received bytes */
static ssize_t answer(ssize_t n) {
    static const char pong[] = "+PONG\r\n";
    ssize_t size = 0;
    for (const char *at = in; (at = memchr(at, '\n', in + n - at)); at++) {
        while (size + sizeof pong > capacity) out = realloc(out, capacity *= 2);
        memcpy(out + size, pong, sizeof pong - 1);
        size += sizeof pong - 1;
    }
    return size;
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    ssize_t n = recv(fd, in, sizeof in, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
        return;
    }
    size_t held = c->size;
    if ((raw || ping) && !held) {
        if (ping && !(n = answer(n))) return;
        const char *data = ping ? out : in;
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return drop(fd);
        if (sent < 0) sent = 0;
        if (sent < n) {
            keep(fd, data + sent, n - sent, n - sent);
            watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
        }
        return;
    }
    while (held + n > capacity) out = realloc(out, capacity *= 2);
    if (held) memcpy(out, c->rest, held);
    size_t end = 0, at = 0;
    /* line by line, as a protocol would process them */
    while (at < (size_t)n) {
        char *newline = memchr(in + at, '\n', n - at);
        size_t next = newline ? (size_t)(newline - in) + 1 : (size_t)n;
        memcpy(out + held + at, in + at, next - at);
        at = next;
        if (newline) end = held + at;
    }
    size_t total = held + n, sent = 0;
    if (end) {
        ssize_t s = send(fd, out, end, MSG_NOSIGNAL);
        if (s < 0 && errno != EAGAIN) return drop(fd);
        sent = s < 0 ? 0 : (size_t)s;
    }
    if (sent || held || total) keep(fd, out + sent, total - sent, end - sent);
    if (sent < end) watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
}

static void writable(int fd) {
    struct conn *c = &conns[fd];
    ssize_t s = send(fd, c->rest, c->unsent, MSG_NOSIGNAL);
    if (s < 0 && errno != EAGAIN) return drop(fd);
    if (s <= 0) return;
    memmove(c->rest, c->rest + s, c->size -= s);
    c->unsent -= s;
    if (!c->unsent) {
        if (!c->size) keep(fd, NULL, 0, 0);
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void ready(int fd, uint32_t events) {
    (void)events;
    if (conns[fd].unsent) writable(fd);
    else readable(fd);
}

static int datagrams(void) {
    enum { BATCH = 64, SIZE = 2048 };
    static char data[BATCH][SIZE];
    static struct sockaddr_in peers[BATCH];
    static struct iovec places[BATCH];
    static struct mmsghdr all[BATCH];
    int buffer = 4 << 20, fd = bound(SOCK_DGRAM);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(ep, &event, 1, -1) < 1) continue;
        for (int i = 0; i < BATCH; i++) {
            places[i] = (struct iovec){data[i], SIZE};
            all[i].msg_hdr = (struct msghdr){
                .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &places[i], .msg_iovlen = 1};
        }
        int n = recvmmsg(fd, all, BATCH, 0, NULL);
        for (int i = 0; i < n; i++) places[i].iov_len = all[i].msg_len;
        if (n > 0) sendmmsg(fd, all, n, 0);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "udp")) return datagrams();
    if (argc > 1 && !strcmp(argv[1], "tls")) { /* the program "tls" beside this one */
        char path[4096], *slash;
        snprintf(path, sizeof path - 4, "%s", argv[0]);
        if ((slash = strrchr(path, '/'))) strcpy(slash + 1, "tls");
        return execl(path, path, getenv("CERT"), getenv("KEY"), (char *)NULL);
    }
    raw = argc > 1 && !strcmp(argv[1], "raw");
    ping = argc > 1 && !strcmp(argv[1], "ping");
    out = malloc(capacity);
    serve(NULL, ready);
}
