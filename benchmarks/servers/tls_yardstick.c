/* The yardstick of TLS: a line echo server in plain C with OpenSSL. One thread, one
 * level-triggered epoll set; one SSL_write for all lines that an SSL_read completes.
 *
 *     tls_yardstick CERT KEY     prints its port and serves until it is killed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, RECORD = 16384, MOST = 1 << 22 };

struct conn {
    SSL *ssl;
    char *rest; /* lines to send, then an unfinished one */
    size_t size, unsent, capacity;
    int ready;
};

static struct conn conns[1 << 20];
static int ep;

static void drop(int fd) {
    SSL_free(conns[fd].ssl);
    free(conns[fd].rest);
    conns[fd] = (struct conn){0};
    close(fd);
    ERR_clear_error();
}

static void watch(int fd, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(ep, op, fd, &e);
}

/* whether *result* of an SSL call means that it is to be tried again */
static int is_early(SSL *ssl, int result) {
    int error = SSL_get_error(ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

static void put(int fd) {
    struct conn *c = &conns[fd];
    while (c->unsent) {
        int n = SSL_write(c->ssl, c->rest, c->unsent);
        if (n <= 0) {
            if (!is_early(c->ssl, n)) return drop(fd);
            return watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
        }
        memmove(c->rest, c->rest + n, c->size -= n);
        c->unsent -= n;
    }
    if (!c->size) {
        free(c->rest);
        c->rest = NULL;
        c->capacity = 0;
    }
}

static void readable(int fd) {
    static char in[RECORD];
    struct conn *c = &conns[fd];
    if (!c->ready) {
        int n = SSL_accept(c->ssl);
        if (n <= 0) {
            if (!is_early(c->ssl, n)) drop(fd);
            return;
        }
        c->ready = 1;
    }
    int n;
    while ((n = SSL_read(c->ssl, in, sizeof in)) > 0) {
        if (c->size + n > c->capacity) c->rest = realloc(c->rest, c->capacity = c->size + n);
        char *last = memrchr(in, '\n', n);
        memcpy(c->rest + c->size, in, n);
        if (last) c->unsent = c->size + (last - in) + 1;
        c->size += n;
        if (c->size > MOST) break;
    }
    if (n <= 0 && !is_early(c->ssl, n)) return drop(fd);
    put(fd);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: tls_yardstick CERT KEY\n"), 2;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(context, argv[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) != 1)
        return ERR_print_errors_fp(stderr), 1;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof addr;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (void *)&addr, sizeof addr) || listen(listener, 4096)) return perror("bind"), 1;
    getsockname(listener, (void *)&addr, &length);
    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (events[i].events & EPOLLOUT) {
                    watch(fd, EPOLLIN, EPOLL_CTL_MOD);
                    put(fd);
                } else
                    readable(fd);
                continue;
            }
            for (int k = 0; k < 64; k++) {
                int made = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (made < 0) break;
                conns[made].ssl = SSL_new(context);
                SSL_set_fd(conns[made].ssl, made);
                watch(made, EPOLLIN, EPOLL_CTL_ADD);
            }
        }
    }
}
