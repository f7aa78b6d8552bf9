/* The yardstick of web.py: an epoll loop that answers HTTP requests of wrk's kind.

   It finds the end of each head and reads its target and Content-Length, checks nothing else,
   and writes prepared responses; those to pipelined requests together. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 1 << 16, FILE_SIZE = 1 << 20, OUT = FILE_SIZE + ROOM };

struct conn {
    int fd;
    size_t have, body, out, sent; /* bytes received; of a body to come; queued; of those sent */
    char in[ROOM];
    char *queue;
};

static char *file_reply;
static size_t file_size;
static const char hello[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 14\r\n\r\nHello, World!\n";
static const char json[] =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n"
    "{\"hello\":\"world\"}";

static int flush(struct conn *c, int epoll) {
    while (c->sent < c->out) {
        ssize_t count = send(c->fd, c->queue + c->sent, c->out - c->sent, MSG_NOSIGNAL);
        struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
        if (count < 0) return epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event) == 0;
        c->sent += (size_t)count;
    }
    c->sent = c->out = 0;
    return 1;
}

static void reply(struct conn *c, const char *data, size_t size) {
    if (!c->queue) c->queue = malloc(OUT);
    if (c->out + size > OUT) return; /* wrk does not pipeline as much */
    memcpy(c->queue + c->out, data, size);
    c->out += size;
}

static void serve(struct conn *c) {
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

int main(void) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof addr;
    if (bind(listener, (void *)&addr, sizeof addr) || listen(listener, 4096)) return 1;
    getsockname(listener, (void *)&addr, &size);
    file_reply = malloc(FILE_SIZE + 200);
    file_size = (size_t)sprintf(file_reply, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", FILE_SIZE);
    memset(file_reply + file_size, 'x', FILE_SIZE);
    file_size += FILE_SIZE;
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            if (events[i].events & EPOLLOUT) {
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
            } else {
                ssize_t got = recv(c->fd, c->in + c->have, ROOM - c->have, 0);
                if (got <= 0) {
                    close(c->fd);
                    free(c->queue);
                    free(c);
                    continue;
                }
                c->have += (size_t)got;
                serve(c);
            }
            flush(c, epoll);
        }
    }
}
