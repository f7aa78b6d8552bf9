/* The yardstick of WebSockets: it unmasks each frame and sends its payload back,
 * or, with "broadcast", to every connection: one send each. It checks of frames only what it
 * needs to find their ends, and knows the key of one client: load.c.
 *
 *     websocket_yardstick [broadcast]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "loop.h"

enum { RECEIVE = 65536, CONNS = 1 << 20 };

struct conn {
    char *in, *out; /* an unfinished frame; unsent bytes */
    size_t have, unsent;
    int place, open; /* in `all`, from one; the handshake is over */
};

static struct conn conns[CONNS];
static int all[CONNS], count, broadcast;
static char *in, *out;
static size_t room = 4 * RECEIVE, queued;
static const char answer[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static void drop(int fd) {
    struct conn *c = &conns[fd];
    if (c->place) { /* the last one takes its place */
        int last = all[--count];
        all[c->place - 1] = last;
        conns[last].place = c->place;
    }
    free(c->in);
    free(c->out);
    *c = (struct conn){0};
    close(fd);
}

/* Send, or keep what the kernel does not take. */
static void put(int fd, const char *data, size_t size) {
    struct conn *c = &conns[fd];
    ssize_t sent = c->unsent ? 0 : send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return;
    if (sent < 0) sent = 0;
    if ((size_t)sent == size) return;
    size -= (size_t)sent;
    c->out = realloc(c->out, c->unsent + size);
    memcpy(c->out + c->unsent, data + sent, size);
    c->unsent += size;
    watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

static void writable(int fd) {
    struct conn *c = &conns[fd];
    ssize_t sent = send(fd, c->out, c->unsent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return drop(fd);
    if (sent <= 0) return;
    memmove(c->out, c->out + sent, c->unsent -= (size_t)sent);
    if (!c->unsent) watch(fd, EPOLLIN, EPOLL_CTL_MOD);
}

/* Append to `out` the frame that answers the one at `at`; return its size, or 0: it is not whole. */
static size_t frame(const unsigned char *at, size_t left) {
    size_t head = 2, length = left < 2 ? 0 : at[1] & 127;
    if (left < 6) return 0;
    if (length == 126) length = (size_t)at[2] << 8 | at[3], head = 4;
    else if (length == 127) {
        if (left < 14) return 0;
        length = 0, head = 10;
        for (int i = 2; i < 10; i++) length = length << 8 | at[i];
    }
    if (left < head + 4 + length) return 0;
    while (room < queued + head + length) out = realloc(out, room *= 2);
    unsigned char *to = (unsigned char *)out + queued;
    memcpy(to, at, head);
    to[1] &= 127;
    const unsigned char *key = at + head, *data = key + 4;
    uint64_t wide, word;
    uint32_t four;
    memcpy(&four, key, 4);
    wide = (uint64_t)four << 32 | four;
    size_t i = 0;
    for (to += head; i + 8 <= length; i += 8) {
        memcpy(&word, data + i, 8);
        word ^= wide;
        memcpy(to + i, &word, 8);
    }
    for (; i < length; i++) to[i] = data[i] ^ key[i & 3];
    queued += head + length;
    return head + 4 + length;
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    char *data = in;
    ssize_t n = recv(fd, in, RECEIVE, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
        return;
    }
    size_t size = (size_t)n, at = 0, taken;
    if (c->have) {
        data = c->in = realloc(c->in, c->have + size);
        memcpy(data + c->have, in, size);
        size += c->have;
    }
    if (!c->open) {
        char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end) {
            at = (size_t)(end - data) + 4;
            c->open = 1;
            all[count++] = fd;
            c->place = count;
            put(fd, answer, sizeof answer - 1);
        }
    }
    queued = 0;
    if (c->open)
        while ((taken = frame((unsigned char *)data + at, size - at))) at += taken;
    if (at < size) {
        if (!c->have) c->in = malloc(size - at);
        memmove(c->in, data + at, size - at);
    } else if (c->have) {
        free(c->in);
        c->in = NULL;
    }
    c->have = size - at;
    if (queued && !broadcast) put(fd, out, queued);
    for (int i = 0; queued && broadcast && i < count; i++) put(all[i], out, queued);
}

static void ready(int fd, uint32_t events) {
    if (events & EPOLLOUT) writable(fd);
    if (events & ~EPOLLOUT) readable(fd);
}

int main(int argc, char **argv) {
    broadcast = argc > 1 && !strcmp(argv[1], "broadcast");
    in = malloc(RECEIVE);
    out = malloc(room);
    serve(NULL, ready);
}
