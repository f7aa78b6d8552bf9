/* One byte echo, five ways to wait for bytes and to send them. Prints its port.
 *
 *     ways_to_wait lt|et|groups|batches|uring
 *
 * lt       level-triggered epoll; receive and send each in turn (the yardstick)
 * et       the same, edge-triggered
 * groups   level-triggered; receive from eight, then send to eight
 * batches  level-triggered; the receives of a batch are one io_uring_enter,
 *          and its sends the next one
 * uring    multishot receives into provided buffers; what is to be sent goes
 *          in with the next wait
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EVENTS = 256, RECEIVE = 65536, GROUP = 8, SLOT = 4096, ENTRIES = 1024, BUFFERS = 2048 };

static char in[RECEIVE], slots[EVENTS][SLOT];
static int ep, listener;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(int fd, const char *data, ssize_t n) {
    if (send(fd, data, n, MSG_NOSIGNAL) != n) close(fd); /* an experiment: its peers always read */
}

static void accept_all(uint32_t events) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        struct epoll_event e = {.events = events, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
}

static void one_by_one(uint32_t flags) {
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(EPOLLIN | flags);
                continue;
            }
            ssize_t got = recv(fd, in, sizeof in, 0);
            if (got > 0) send_all(fd, in, got);
            else if (got == 0 || errno != EAGAIN) close(fd);
        }
    }
}

static void in_groups(void) {
    struct epoll_event events[EVENTS];
    ssize_t got[GROUP];
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int first = 0; first < n; first += GROUP) {
            int last = first + GROUP < n ? first + GROUP : n;
            for (int i = first; i < last; i++) {
                int fd = events[i].data.fd;
                got[i - first] = -1;
                if (fd == listener) accept_all(EPOLLIN);
                else if ((got[i - first] = recv(fd, slots[i - first], SLOT, 0)) == 0) close(fd);
            }
            for (int i = first; i < last; i++)
                if (got[i - first] > 0) send_all(events[i].data.fd, slots[i - first], got[i - first]);
        }
    }
}

/* ------------------------------------------------------------------ io_uring */

static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static unsigned *sq_tail, *sq_head, *sq_mask, *cq_head, *cq_tail, *cq_mask, pending;
static int ring;
static struct io_uring_buf_ring *buffers;
static char *memory;

static void make_ring(void) {
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 8 * ENTRIES,
    };
    ring = syscall(SYS_io_uring_setup, ENTRIES, &p);
    if (ring < 0) fail("io_uring_setup");
    size_t size = p.cq_off.cqes + p.cq_entries * sizeof *cqes;
    if (size < p.sq_off.array + ENTRIES * 4) size = p.sq_off.array + ENTRIES * 4;
    char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    sqes = mmap(0, ENTRIES * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
    if (at == MAP_FAILED || sqes == MAP_FAILED) fail("mmap");
    sq_head = (unsigned *)(at + p.sq_off.head);
    sq_tail = (unsigned *)(at + p.sq_off.tail);
    sq_mask = (unsigned *)(at + p.sq_off.ring_mask);
    cq_head = (unsigned *)(at + p.cq_off.head);
    cq_tail = (unsigned *)(at + p.cq_off.tail);
    cq_mask = (unsigned *)(at + p.cq_off.ring_mask);
    cqes = (struct io_uring_cqe *)(at + p.cq_off.cqes);
    unsigned *array = (unsigned *)(at + p.sq_off.array);
    for (unsigned i = 0; i < ENTRIES; i++) array[i] = i;
}

static void enter(unsigned wait) {
    int done = syscall(SYS_io_uring_enter, ring, pending, wait, IORING_ENTER_GETEVENTS, NULL, 0);
    if (done < 0 && errno != EINTR) fail("io_uring_enter");
    if (done > 0) pending -= done;
}

static struct io_uring_sqe *next(int op, int fd, uint64_t data) {
    if (pending == ENTRIES) enter(0);
    struct io_uring_sqe *e = &sqes[*sq_tail & *sq_mask];
    memset(e, 0, sizeof *e);
    e->opcode = op;
    e->fd = fd;
    e->user_data = data;
    __atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_RELEASE);
    pending++;
    return e;
}

static void send_later(int fd, char *data, int size, uint64_t tag) {
    struct io_uring_sqe *e = next(IORING_OP_SEND, fd, tag);
    e->addr = (uintptr_t)data;
    e->len = size;
    e->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

static void in_batches(void) {
    struct epoll_event events[EVENTS];
    make_ring();
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1), asked = 0;
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener) {
                accept_all(EPOLLIN);
                continue;
            }
            struct io_uring_sqe *e = next(IORING_OP_RECV, events[i].data.fd, i);
            e->addr = (uintptr_t)slots[i];
            e->len = SLOT;
            e->msg_flags = MSG_DONTWAIT;
            asked++;
        }
        if (asked == 0) continue;
        enter(asked);
        unsigned head = *cq_head, tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        int sent = 0;
        for (; head != tail; head++) {
            struct io_uring_cqe *c = &cqes[head & *cq_mask];
            int fd = events[c->user_data].data.fd;
            if (c->res > 0) send_later(fd, slots[c->user_data], c->res, 0), sent++;
            else if (c->res != -EAGAIN) close(fd);
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
        if (sent) enter(sent);
        __atomic_store_n(cq_head, __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    }
}

static void give_back(unsigned short id) {
    struct io_uring_buf *b = &buffers->bufs[buffers->tail & (BUFFERS - 1)];
    b->addr = (uintptr_t)(memory + id * SLOT);
    b->len = SLOT;
    b->bid = id;
    __atomic_store_n(&buffers->tail, buffers->tail + 1, __ATOMIC_RELEASE);
}

static void arm(int fd) {
    struct io_uring_sqe *e = next(IORING_OP_RECV, fd, (uint64_t)1 << 62 | fd);
    e->ioprio = IORING_RECV_MULTISHOT;
    e->flags = IOSQE_BUFFER_SELECT;
}

static void multishot(void) {
    make_ring();
    buffers = mmap(0, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    memory = malloc(BUFFERS * SLOT);
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)buffers, .ring_entries = BUFFERS};
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &reg, 1) < 0) fail("provided buffers");
    for (int i = 0; i < BUFFERS; i++) give_back(i);
    next(IORING_OP_ACCEPT, listener, (uint64_t)2 << 62)->ioprio = IORING_ACCEPT_MULTISHOT;
    for (;;) {
        enter(1);
        unsigned head = *cq_head, tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            struct io_uring_cqe *c = &cqes[head & *cq_mask];
            int fd = (int)c->user_data;
            unsigned id = c->flags >> IORING_CQE_BUFFER_SHIFT;
            switch (c->user_data >> 62) {
            case 2:
                if (c->res >= 0) arm(c->res);
                break;
            case 1:
                if (c->res > 0) send_later(fd, memory + id * SLOT, c->res, id);
                else if (c->flags & IORING_CQE_F_BUFFER) give_back(id);
                if (!(c->flags & IORING_CQE_F_MORE)) {
                    if (c->res > 0 || c->res == -ENOBUFS) arm(fd);
                    else close(fd);
                }
                break;
            default:
                give_back(c->user_data);
            }
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
    }
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "lt";
    int one = 1;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof addr;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (void *)&addr, sizeof addr) || listen(listener, 4096)) fail("bind");
    getsockname(listener, (void *)&addr, &length);
    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    if (strcmp(way, "uring")) epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    if (!strcmp(way, "lt")) one_by_one(0);
    if (!strcmp(way, "et")) one_by_one(EPOLLET);
    if (!strcmp(way, "groups")) in_groups();
    if (!strcmp(way, "batches")) in_batches();
    if (!strcmp(way, "uring")) multishot();
    return fprintf(stderr, "ways_to_wait lt|et|groups|batches|uring\n"), 2;
}
