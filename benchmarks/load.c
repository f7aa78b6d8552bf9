/* A load generator that checks every byte: closed-loop, or at a given rate.
 *
 *     load PORT CONNECTIONS DEPTH SIZE SECONDS [reconnect | resume | udp | websocket | broadcast | RATE]
 *
 * Each connection sends DEPTH lines of SIZE bytes in one call, waits until all
 * of them have come back, and goes on. It never sleeps: a server that had to wake
 * it for each reply would be charged for that, which one whose clients are on
 * other machines is not. With "reconnect", each exchange has a
 * connection of its own. Compiled with -DTLS, it speaks TLS, and with "resume" each connection
 * but the first continues a session. With "udp", each connection is a UDP socket, and each
 * exchange one datagram. With "websocket", each line is a binary message of a WebSocket; with
 * "broadcast", the first of them sends it to all, which is one message for each. With RATE, so many exchanges a second are due whatever the
 * server does, and latencies count from when one was due. Prints "ready" when the measurement
 * begins: once each connection has had an exchange, if they stay open. Then prints one JSON object; exits 1 at the first wrong
 * byte, lost connection or stall of twenty seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
static SSL_SESSION *session;
#endif

enum { EVENTS = 256, RECEIVE = 262144, SLOTS = 64 * 64 };

struct conn {
    int fd, connecting, opening, warm;
#ifdef TLS
    SSL *ssl;
    int resumes;
#endif
    size_t unsent, unread; /* of the present exchange, in bytes */
    uint64_t number, begun;
};

static int ep, depth, size, reconnect, resume, udp, websocket, broadcast, missing;
static uint64_t rate, due; /* the next exchange's, if there is a rate */
static struct conn **idle; /* a ring of the connections that wait for one */
static size_t idle_first, idle_count, idle_size;
static struct conn *conns;
static int count;
static size_t exchange, sent_exchange; /* bytes that come back, and that are sent */
static struct sockaddr_in addr = {.sin_family = AF_INET};
static char *pattern, *sent_pattern, buffer[RECEIVE];
static uint64_t messages, slots[SLOTS], deadline, slowest;
static int ready, cold; /* connections without an exchange yet */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Latencies in 64 linear steps for each power of two of nanoseconds: within 1.6%. */
static void record(uint64_t ns) {
    int power = 63 - __builtin_clzll(ns | 64);
    int slot = (power - 6) * 64 + (int)((ns >> (power - 6)) & 63);
    slots[slot]++;
    if (ns > slowest) slowest = ns;
}

static double percentile(double p, uint64_t total) {
    uint64_t seen = 0;
    for (int i = 0; i < SLOTS; i++)
        if ((seen += slots[i]) >= p * total && seen)
            return (double)((uint64_t)(64 + i % 64) << (i / 64)) / 1e3;
    return slowest / 1e3;
}

#ifdef TLS
static ssize_t result(struct conn *c, int n) {
    if (n > 0) return n;
    int error = SSL_get_error(c->ssl, n);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}
static ssize_t put(struct conn *c, const void *data, size_t n) { return result(c, SSL_write(c->ssl, data, n)); }
static ssize_t get(struct conn *c, void *data, size_t n) { return result(c, SSL_read(c->ssl, data, n)); }
static int remember(SSL *ssl, SSL_SESSION *made) {
    (void)ssl;
    if (resume && !session) session = SSL_SESSION_dup(made);
    return 0;
}
static void start(struct conn *c) {
    c->ssl = SSL_new(context);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_connect_state(c->ssl);
    if ((c->resumes = session != NULL)) { /* a copy: OpenSSL lets a session be resumed once */
        SSL_SESSION *copy = SSL_SESSION_dup(session);
        SSL_set_session(c->ssl, copy);
        SSL_SESSION_free(copy);
    }
}
static void stop(struct conn *c) {
    if (c->resumes && !SSL_session_reused(c->ssl)) errno = EPROTO, die("a session was not resumed");
    SSL_free(c->ssl);
    close(c->fd);
}
#else
static ssize_t put(struct conn *c, const void *data, size_t n) { return send(c->fd, data, n, MSG_NOSIGNAL); }
static ssize_t get(struct conn *c, void *data, size_t n) { return recv(c->fd, data, n, 0); }
static void start(struct conn *c) { (void)c; }
static void stop(struct conn *c) { close(c->fd); }
#endif

/* Bytes of an exchange: the pattern of all exchanges, from a place that depends on its number. */
static const char *expected(struct conn *c) { return pattern + (c->number % 61) * (exchange / depth); }

static const char *unsent(struct conn *c) {
    return sent_pattern + (c->number % 61) * (sent_exchange / depth) + sent_exchange - c->unsent;
}

static void pump(struct conn *c) {
    ssize_t n = put(c, unsent(c), c->unsent);
    if (n < 0 && errno != EAGAIN) die("send");
    if (n > 0) c->unsent -= n;
    int full = c->unsent != 0;
#ifdef TLS
    while (n > 0 && c->unsent && (n = put(c, unsent(c), c->unsent)) > 0) c->unsent -= n;
    full = c->unsent && SSL_is_init_finished(c->ssl);
#endif
    struct epoll_event e = {.events = EPOLLIN | (full ? EPOLLOUT : 0), .data.ptr = c};
    static __thread char waiting[1 << 20];
    if (full || waiting[c->fd]) epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    waiting[c->fd] = full;
}

static void begin(struct conn *c) {
    if (broadcast) {
        missing = count;
        for (int i = 1; i < count; i++) conns[i].number++, conns[i].unread = exchange;
    }
    c->number++;
    c->unsent = sent_exchange;
    c->unread = exchange;
    if (!reconnect && !rate) c->begun = now();
    pump(c);
}

static void rest(struct conn *c) { idle[(idle_first + idle_count++) % idle_size] = c; }

static void pace(uint64_t t) {
    while (due <= t && idle_count) {
        struct conn *c = idle[idle_first];
        idle_first = (idle_first + 1) % idle_size, idle_count--;
        c->begun = due;
        due += 1000000000 / rate;
        begin(c);
    }
}

/* Open a WebSocket; the key is the one in RFC 6455, section 1.3. */
static void ask(struct conn *c) {
    static const char request[] =
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    c->opening = 1;
    if (put(c, request, sizeof request - 1) != sizeof request - 1) die("send");
}

static void open_conn(struct conn *c) {
    int one = 1;
    c->begun = now();
    c->fd = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    if (!udp) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connecting = connect(c->fd, (void *)&addr, sizeof addr) < 0;
    if (c->connecting && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = c->connecting ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    if (!c->connecting) start(c), websocket ? ask(c) : rate ? rest(c) : begin(c);
}

static void opened(struct conn *c) {
    ssize_t n = get(c, buffer, sizeof buffer);
    if (n < 12 || memcmp(buffer, "HTTP/1.1 101", 12) || memcmp(buffer + n - 4, "\r\n\r\n", 4))
        errno = EPROTO, die("no WebSocket was opened");
    c->opening = 0;
    if (!broadcast) begin(c);
    else if (--missing == 0) begin(&conns[0]);
}

static void connected(struct conn *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if ((errno = error)) die("connect");
    c->connecting = 0;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    start(c);
    websocket ? ask(c) : rate ? rest(c) : begin(c);
}

static void receive(struct conn *c, uint64_t t) {
    ssize_t n = get(c, buffer, sizeof buffer);
#ifdef TLS
    if (n < 0 && errno == EAGAIN && c->unsent) return pump(c); /* the handshake goes on */
#endif
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die(n ? "recv" : "the server closed a connection");
    if (udp && (n != size || memcmp(buffer, expected(c), n)))
        return; /* a late answer to an earlier program that had this port */
    if ((size_t)n > c->unread) errno = EPROTO, die("more came back than was sent");
    if (memcmp(buffer, expected(c) + exchange - c->unread, n)) errno = EPROTO, die("a wrong byte came back");
    if (c->unread -= n) return;
    if (!c->warm) c->warm = 1, cold--;
    messages += depth;
    if (broadcast && --missing) return;
    if (broadcast) c = &conns[0];
    record(now() - c->begun);
    if (t > deadline) return;
    if (reconnect) {
        stop(c);
        open_conn(c);
    } else if (rate)
        rest(c);
    else
        begin(c);
}

/* Write the header of a frame at *at*, which is masked or not; return where it ends. */
static char *header(char *at, int is_masked) {
    *at++ = (char)0x82;
    *at++ = (char)((is_masked ? 128 : 0) | (size < 126 ? size : size < 65536 ? 126 : 127));
    for (int i = size < 126 ? 0 : size < 65536 ? 2 : 8; i--;) *at++ = (char)((uint64_t)size >> 8 * i);
    if (is_masked) memcpy(at, "\x37\xfa\x21\x3d", 4), at += 4;
    return at;
}

/* Put each line of the pattern into a frame, with and without a mask. */
static void frame_all(void) {
    int lines = 61 + depth;
    char *line = pattern, *head = buffer, *key = header(buffer, 1) - 4;
    size_t head_size = (size_t)(key - head);
    char *to = pattern = malloc((size_t)lines * (head_size + size));
    char *sent = sent_pattern = malloc((size_t)lines * (head_size + 4 + size));
    for (int i = 0; i < lines; i++, line += size) {
        to = header(to, 0), sent = header(sent, 1);
        for (int k = 0; k < size; k++) *to++ = line[k], *sent++ = line[k] ^ key[k & 3];
    }
    exchange = depth * (head_size + size), sent_exchange = depth * (head_size + 4 + size);
}

int main(int argc, char **argv) {
    if (argc < 6)
        return fprintf(stderr, "usage: load PORT CONNECTIONS DEPTH SIZE SECONDS "
                               "[reconnect | resume | udp | websocket | broadcast | RATE]\n"), 2;
    count = missing = atoi(argv[2]);
    addr.sin_port = htons(atoi(argv[1]));
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    depth = atoi(argv[3]), size = atoi(argv[4]), exchange = sent_exchange = (size_t)depth * size;
    udp = argc > 6 && !strcmp(argv[6], "udp");
    broadcast = argc > 6 && !strcmp(argv[6], "broadcast");
    websocket = broadcast || (argc > 6 && !strcmp(argv[6], "websocket"));
    resume = argc > 6 && !strcmp(argv[6], "resume");
    reconnect = resume || (argc > 6 && !strcmp(argv[6], "reconnect"));
#ifdef TLS
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, remember);
#endif
    rate = argc > 6 ? strtoull(argv[6], NULL, 10) : 0;
    idle = calloc(idle_size = count, sizeof *idle);
    pattern = sent_pattern = malloc((size_t)(61 + depth) * size);
    for (int i = 0; i < 61 + depth; i++) {
        for (int k = 0; k < size - 1; k++) pattern[(size_t)i * size + k] = 'a' + (i * 7 + k) % 26;
        pattern[(size_t)(i + 1) * size - 1] = '\n';
    }
    if (websocket) frame_all();
    ep = epoll_create1(0);
    conns = calloc(count, sizeof *conns);
    deadline = ~0ull;
    for (int i = 0; i < count; i++) conns[i].number = broadcast ? 0 : i, open_conn(&conns[i]);
    uint64_t start = now(), end = start + (uint64_t)(atof(argv[5]) * 1e9);
    deadline = end;
    due = start + 100000000; /* when all are connected */
    cold = reconnect || rate ? 0 : count;
    for (uint64_t t = start, moved = start; t < end || (broadcast && missing);) {
        if (!ready && cold <= 0) {
            ready = 1;
            puts("ready");
            fflush(stdout);
            t = start = now();
            deadline = end = start + (uint64_t)(atof(argv[5]) * 1e9);
            messages = slowest = 0;
            memset(slots, 0, sizeof slots);
        } else if (!ready)
            deadline = end = now() + 1000000000;
        struct epoll_event events[EVENTS];
        int n = epoll_wait(ep, events, EVENTS, 0);
        t = now();
        if (rate) pace(t);
        if (n > 0) moved = t;
        else if (t - moved > 20000000000ull) errno = ETIMEDOUT, die("nothing came back for twenty seconds");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->connecting) connected(c);
            else if (c->opening) opened(c);
            else {
                if (events[i].events & EPOLLOUT) pump(c);
                if (events[i].events & ~EPOLLOUT) receive(c, t);
            }
        }
    }
    double seconds = (now() - start) / 1e9;
    uint64_t total = 0;
    for (int i = 0; i < SLOTS; i++) total += slots[i];
    printf("{\"messages\": %llu, \"seconds\": %.4f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}\n",
           (unsigned long long)messages, seconds, percentile(.5, total), percentile(.99, total),
           percentile(.999, total), slowest / 1e3);
}
