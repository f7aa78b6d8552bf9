/* The yardstick of TLS: a line echo server in plain C with OpenSSL. One SSL_write for all lines
 * that an SSL_read completes.
 *
 *     tls_yardstick CERT KEY
 */
#define _GNU_SOURCE
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <string.h>

#include "loop.h"

enum { RECORD = 16384, MOST = 1 << 22 };

struct conn {
    SSL *ssl;
    char *rest; /* lines to send, then an unfinished one */
    size_t size, unsent, capacity;
    int ready;
};

static struct conn conns[1 << 20];
static SSL_CTX *context;

static void drop(int fd) {
    SSL_free(conns[fd].ssl);
    free(conns[fd].rest);
    conns[fd] = (struct conn){0};
    close(fd);
    ERR_clear_error();
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

static void opened(int fd) {
    conns[fd].ssl = SSL_new(context);
    SSL_set_fd(conns[fd].ssl, fd);
}

static void ready(int fd, uint32_t events) {
    if (events & EPOLLOUT) {
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
        put(fd);
    } else
        readable(fd);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: tls_yardstick CERT KEY\n"), 2;
    context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(context, argv[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[2], SSL_FILETYPE_PEM) != 1)
        return ERR_print_errors_fp(stderr), 1;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    serve(opened, ready);
}
