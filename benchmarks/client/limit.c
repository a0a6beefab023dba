/* What a client can reach here: N closed-loop streams in one thread of C, one epoll, nothing parsed
 * while answers come. Every read is stamped and kept; at the end of an answer its events are counted
 * and the stamps of the first and the last found, with string searches.
 *
 *   limit PORT STREAMS REQUESTS PACE BODY_BYTES RAMP_S    prints one line of JSON
 *
 * Every stream asks once to have its connection; only when all have one does the measured part begin,
 * with starts spread over RAMP_S. A row is: stream, sent, first, last (ns), tokens, characters.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct read {
    int64_t at_ns;
    size_t end;
};

struct stream {
    int fd, left, asking;
    size_t written;
    int64_t start_ns, sent_ns;
    char *bytes;
    size_t length, room;
    struct read *reads;
    size_t read_count, read_room;
    char head[512];
    size_t head_length;
};

static const char MARK[] = "\"delta\":{\"content\":\"T";
enum { MARK_LENGTH = sizeof MARK - 1, AT_ONCE = 1 << 16 };

static struct stream *all;
static const char *pace = "first_us=0,gap_us=0,tokens=1";
static int is_warm_up = 1, open_requests;
static char *body;
static size_t body_length;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_s(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Not of getrusage, which remembers the process that started us. */
static double peak_rss_mb(void)
{
    char line[256];
    long kb = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &kb);
    if (status) fclose(status);
    return kb * 1024 / 1e6;
}

/* How long we were ready to run and another had the core. */
static double waited_s(void)
{
    long long ran = 0, waited = 0;
    FILE *told = fopen("/proc/self/schedstat", "r");
    if (told && fscanf(told, "%lld %lld", &ran, &waited) != 2) waited = 0;
    if (told) fclose(told);
    return waited / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void write_on(struct stream *s)
{
    while (s->written < s->head_length + body_length) {
        size_t of_body = s->written > s->head_length ? s->written - s->head_length : 0;
        size_t of_head = s->written - of_body;
        struct iovec parts[] = {{s->head + of_head, s->head_length - of_head},
                                {body + of_body, body_length - of_body}};
        ssize_t taken = writev(s->fd, parts, 2);
        if (taken < 0 && errno == EAGAIN) return;
        if (taken < 0) fail("writev");
        s->written += taken;
    }
}

static void ask(struct stream *s)
{
    s->head_length = sprintf(s->head,
        "POST /%s/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n"
        "content-type: application/json\r\nx-stream: %d\r\ncontent-length: %zu\r\n\r\n",
        pace, (int)(s - all), body_length);
    s->length = s->read_count = s->written = 0;
    s->asking = 1;
    open_requests++;
    s->sent_ns = now_ns();
    write_on(s);
}

static void keep(struct stream *s, const char *data, size_t length)
{
    if (s->length + length > s->room) {
        s->room = 2 * (s->length + length);
        s->bytes = realloc(s->bytes, s->room);
    }
    memcpy(s->bytes + s->length, data, length);
    s->length += length;
    if (s->read_count == s->read_room) {
        s->read_room = s->read_room ? 2 * s->read_room : 64;
        s->reads = realloc(s->reads, s->read_room * sizeof *s->reads);
    }
    s->reads[s->read_count++] = (struct read){now_ns(), s->length};
}

static int64_t stamp_of(const struct stream *s, size_t offset)
{
    size_t low = 0, high = s->read_count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->reads[middle].end > offset) high = middle;
        else low = middle + 1;
    }
    return s->reads[low].at_ns;
}

/* The rows are kept as text in memory and printed at the end. */
static char *rows;
static size_t rows_length, rows_room;

static void add_row(const struct stream *s)
{
    const char *at = s->bytes, *end = at + s->length, *first = NULL, *last = NULL;
    int64_t tokens = 0, chars = 0;
    while ((at = memmem(at, end - at, MARK, MARK_LENGTH))) {
        if (!first) first = at;
        last = at;
        at += MARK_LENGTH;
        chars += (const char *)memchr(at, '"', end - at) - at + 1;
        tokens++;
    }
    if (!first) {
        fprintf(stderr, "an answer without tokens\n");
        exit(1);
    }
    if (rows_length + 1024 > rows_room) rows = realloc(rows, rows_room = 2 * rows_room + 4096);
    rows_length += sprintf(rows + rows_length, "%s[%d,%lld,%lld,%lld,%lld,%lld]",
                           rows_length ? "," : "", (int)(s - all), (long long)s->sent_ns,
                           (long long)stamp_of(s, first - s->bytes),
                           (long long)stamp_of(s, last - s->bytes), (long long)tokens,
                           (long long)chars);
}

static void read_on(struct stream *s)
{
    static char data[AT_ONCE];
    ssize_t got = AT_ONCE;
    while (got == AT_ONCE) {
        got = recv(s->fd, data, AT_ONCE, MSG_DONTWAIT);
        if (got == 0) fail("the origin has closed");
        if (got < 0 && errno == EAGAIN) return;
        if (got < 0) fail("recv");
        keep(s, data, got);
    }
    if (s->length < 7 || memcmp(s->bytes + s->length - 7, "\r\n0\r\n\r\n", 7)) return;
    s->asking = 0;
    open_requests--;
    if (is_warm_up) return;
    add_row(s);
    if (--s->left) ask(s);
}

/* Waits for what comes; at most so long. */
static void turn(int loop, int wait_ms)
{
    struct epoll_event seen[512];
    int number = epoll_wait(loop, seen, 512, wait_ms);
    for (int k = 0; k < number; k++) {
        struct stream *s = seen[k].data.ptr;
        if (!s->asking) continue;
        write_on(s);
        if (seen[k].events & EPOLLIN) read_on(s);
    }
}

static void open_stream(struct stream *s, int loop, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (s->fd < 0 || connect(s->fd, (void *)&address, sizeof address)) fail("connect");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = s}};
    epoll_ctl(loop, EPOLL_CTL_ADD, s->fd, &wanted);
}

int main(int count, char **arguments)
{
    if (count != 7) return 2;
    int port = atoi(arguments[1]), streams = atoi(arguments[2]), requests = atoi(arguments[3]);
    double ramp_s = atof(arguments[6]);
    body_length = atoll(arguments[5]);
    body = malloc(body_length);
    memset(body, 'x', body_length);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    all = calloc(streams, sizeof *all);
    int loop = epoll_create1(0), begun = 0;
    for (int k = 0; k < streams; k++) {
        open_stream(all + k, loop, port);
        ask(all + k);
    }
    while (open_requests) turn(loop, -1);
    is_warm_up = 0;
    pace = arguments[4];
    double cpu_before = cpu_s(), waited_before = waited_s();
    int64_t began_ns = now_ns();
    for (int k = 0; k < streams; k++) {
        all[k].start_ns = began_ns + (int64_t)(ramp_s * 1e9 * k / streams);
        all[k].left = requests;
    }
    while (begun < streams || open_requests) {
        while (begun < streams && all[begun].start_ns <= now_ns()) ask(all + begun++);
        turn(loop, begun < streams ? 1 : -1);
    }
    double used_s = cpu_s() - cpu_before, wall_s = (now_ns() - began_ns) / 1e9;
    printf("{\"cpu_s\":%.6f,\"wall_s\":%.6f,\"waited_s\":%.6f,\"rss_mb\":%.2f,\"rows\":[%.*s]}\n", used_s, wall_s,
           waited_s() - waited_before, peak_rss_mb(), (int)rows_length, rows);
    return 0;
}
