/* The yardstick of web.py: it answers HTTP requests of wrk's kind. It finds the end of each head
 * and reads its target and Content-Length, checks nothing else, and writes prepared responses;
 * those to pipelined requests together.
 */
#define _GNU_SOURCE
#include <string.h>

#include "loop.h"

enum { ROOM = 1 << 16, FILE_SIZE = 1 << 20, OUT = FILE_SIZE + ROOM };

struct conn {
    size_t have, body, out, sent; /* bytes received; of a body to come; queued; of those sent */
    char in[ROOM];
    char *queue;
};

static struct conn *conns[1 << 20];
static char *file_reply;
static size_t file_size;
static const char hello[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 14\r\n\r\nHello, World!\n";
static const char json[] =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n"
    "{\"hello\":\"world\"}";

static void flush(int fd) {
    struct conn *c = conns[fd];
    while (c->sent < c->out) {
        ssize_t count = send(fd, c->queue + c->sent, c->out - c->sent, MSG_NOSIGNAL);
        if (count < 0) return watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
        c->sent += (size_t)count;
    }
    c->sent = c->out = 0;
}

static void reply(struct conn *c, const char *data, size_t size) {
    if (!c->queue) c->queue = malloc(OUT);
    if (c->out + size > OUT) return; /* wrk does not pipeline as much */
    memcpy(c->queue + c->out, data, size);
    c->out += size;
}

static void answer(struct conn *c) {
    size_t at = 0;
    for (;;) {
        size_t left = c->have - at, taken = c->body < left ? c->body : left;
        at += taken;
        if (taken && (c->body -= taken) == 0) reply(c, hello, sizeof hello - 1);
        char *head = c->in + at, *end = memmem(head, c->have - at, "\r\n\r\n", 4);
        if (c->body || !end) break;
        char *length = memmem(head, (size_t)(end - head), "ontent-Length: ", 15);
        at = (size_t)(end - c->in) + 4;
        if (length) c->body = strtoul(length + 15, NULL, 10);
        else if (memcmp(head, "GET /json", 9) == 0) reply(c, json, sizeof json - 1);
        else if (memcmp(head, "GET /file", 9) == 0) reply(c, file_reply, file_size);
        else reply(c, hello, sizeof hello - 1);
    }
    memmove(c->in, c->in + at, c->have -= at);
}

static void opened(int fd) {
    conns[fd] = calloc(1, sizeof *conns[fd]);
}

static void ready(int fd, uint32_t events) {
    struct conn *c = conns[fd];
    if (events & EPOLLOUT) {
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    } else {
        ssize_t got = recv(fd, c->in + c->have, ROOM - c->have, 0);
        if (got <= 0) {
            close(fd);
            free(c->queue);
            free(c);
            return;
        }
        c->have += (size_t)got;
        answer(c);
    }
    flush(fd);
}

int main(void) {
    file_reply = malloc(FILE_SIZE + 200);
    file_size = (size_t)sprintf(file_reply, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", FILE_SIZE);
    memset(file_reply + file_size, 'x', FILE_SIZE);
    file_size += FILE_SIZE;
    serve(opened, ready);
}
