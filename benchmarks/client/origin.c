/* An OpenAI-compatible server that does nothing but send answers on time and tell the truth about it.
 *
 * One thread, one epoll. Prompts are thrown away unread; every answer is a role event at once, content
 * events of a fixed size at their due times, a finish event, a usage event and [DONE], in chunks of
 * HTTP/1.1. The usage event carries the truth of its answer in CLOCK_MONOTONIC nanoseconds: when the
 * request was read, when the first and the last content event went to the kernel (taken immediately
 * before send), how late the worst of its events was, and how many characters of text it had.
 *
 *   origin PACE [LOG]    prints its port; ends on SIGTERM; LOG gets one line of JSON per answer
 *
 * PACE, and any path that holds such fields, is a list like first_us=200000,gap_us=20000,tokens=75:
 *   first_us   from the request to the first content event
 *   gap_us     between content events; 0: as fast as the client reads
 *   tokens     content events of an answer
 *   bytes      of one event
 *   per_write  content events that go together in one chunk and one send
 *   together   1: events are due at ticks of a clock that all streams share, as an engine's steps are
 * A header x-agentperf-osl says how many content events this answer has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "queue.h"

enum { BATCH = 64, MAX_EVENT = 4096, MAX_WRITE = 1 << 20 };

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- what an answer is made of ---- */

#define EVENT "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":" \
    "\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"sim\",\"choices\":["
#define TAIL "\"logprobs\":null,\"finish_reason\":null}]}\n\n"

static const char OK[] = "HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/event-stream\r\n"
                         "transfer-encoding: chunked\r\n\r\n";
static const char ROLE[] =
    EVENT "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}," TAIL;
static const char FINISH[] = EVENT "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
static const char BEFORE[] = EVENT "{\"index\":0,\"delta\":{\"content\":\"";
static const char AFTER[] = "\"}," TAIL;

enum { DIGITS = 7, LEAST_TEXT = DIGITS + 2, AROUND = sizeof BEFORE + sizeof AFTER - 2 };

static int text_length(const struct pace *pace)
{
    int length = (int)pace->bytes - AROUND;
    return length < LEAST_TEXT ? LEAST_TEXT : length;
}

static char *add(char *at, const char *data, size_t length)
{
    memcpy(at, data, length);
    return at + length;
}

static char *add_chunk(char *at, const char *data, size_t length)
{
    at += sprintf(at, "%zx\r\n", length);
    return add(add(at, data, length), "\r\n", 2);
}

/* A content event says which it is, so that none can be lost or doubled unseen. */
static char *add_content(char *at, const struct pace *pace, int64_t number)
{
    static char event[MAX_EVENT];
    static int length, text;
    if (text != text_length(pace)) {
        text = text_length(pace);
        char *end = add(event, BEFORE, sizeof BEFORE - 1);
        *end++ = 'T';
        memset(end, 'x', text - 1);
        end[text - 2] = ' ';
        end = add(end + text - 1, AFTER, sizeof AFTER - 1);
        length = (int)(end - event);
    }
    char *digit = event + sizeof BEFORE - 1 + DIGITS;
    for (int k = 0; k < DIGITS; k++, number /= 10) *digit-- = (char)('0' + number % 10);
    return add(at, event, length);
}

static FILE *log_file;

/* Tells the truth of an answer, to the log as well; returns its length. */
static int tell(const struct stream *s, char *truth, size_t room)
{
    int length = snprintf(truth, room,
        "{\"stream\":%lld,\"read_ns\":%lld,\"first_ns\":%lld,\"last_ns\":%lld,\"lag_ns\":%lld,"
        "\"tokens\":%lld,\"chars\":%lld,\"whole\":%s}",
        (long long)s->number, (long long)s->read_ns, (long long)s->first_ns, (long long)s->last_ns,
        (long long)s->lag_ns, (long long)s->sent, (long long)s->sent * text_length(&s->pace),
        s->sent == s->pace.tokens ? "true" : "false");
    if (log_file) fprintf(log_file, "%s\n", truth);
    return length;
}

static char *add_end(char *at, struct stream *s)
{
    char text[1024], truth[512];
    int length = tell(s, truth, sizeof truth);
    at = add_chunk(at, FINISH, sizeof FINISH - 1);
    length = snprintf(text, sizeof text,
        EVENT "],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":%lld,"
        "\"total_tokens\":%lld,\"truth\":%.*s}}\n\n",
        (long long)s->pace.tokens, (long long)s->pace.tokens + 1000, length, truth);
    at = add_chunk(at, text, length);
    at = add_chunk(at, "data: [DONE]\n\n", 14);
    return add(at, "0\r\n\r\n", 5);
}

/* ---- sending ---- */

static void keep(struct stream *s, const char *data, size_t length)
{
    if (s->rest_length + length > s->rest_room) {
        s->rest_room = 2 * (s->rest_length + length);
        s->rest = realloc(s->rest, s->rest_room);
    }
    memcpy(s->rest + s->rest_length, data, length);
    s->rest_length += length;
}

/* Returns 0 when the connection is gone. */
static int send_now(struct stream *s, const char *data, size_t length)
{
    ssize_t taken = 0;
    if (!s->rest_length) {
        taken = send(s->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken < 0 && errno != EAGAIN) return 0;
        if (taken < 0) taken = 0;
    }
    if ((size_t)taken < length) keep(s, data + taken, length - taken);
    return 1;
}

static void answered(struct stream *s)
{
    if (s->state == ENDING && !s->rest_length) {
        s->state = READING_HEAD;
        s->head_length = 0;
    }
}

static int send_rest(struct stream *s)
{
    while (s->rest_length) {
        ssize_t taken = send(s->fd, s->rest, s->rest_length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken < 0) return errno == EAGAIN;
        s->rest_length -= taken;
        memmove(s->rest, s->rest + taken, s->rest_length);
    }
    answered(s);
    return 1;
}

/* Sends what is due of an answer, and its end with the last of it. */
static int send_due(struct stream *s)
{
    static char out[MAX_WRITE + 8192], together[MAX_WRITE];
    char *at = out, *end = together;
    int64_t most = s->pace.tokens - s->sent;
    if (most > s->pace.per_write) most = s->pace.per_write;
    for (int64_t k = 0; k < most; k++) end = add_content(end, &s->pace, ++s->sent);
    at = add_chunk(at, together, end - together);
    s->last_ns = now_ns();
    if (s->sent == most) s->first_ns = s->last_ns;
    if (s->sent < s->pace.tokens) return send_now(s, out, at - out);
    dequeue(s);
    s->state = ENDING;
    at = add_end(at, s);
    int alive = send_now(s, out, at - out);
    answered(s);
    return alive;
}

/* ---- requests ---- */

static void read_field(const char *from, const char *to, const char *name, int64_t *value)
{
    const char *found = memmem(from, to - from, name, strlen(name));
    if (found) *value = atoll(found + strlen(name));
}

static struct pace read_pace(const char *from, const char *to, struct pace pace)
{
    read_field(from, to, "first_us=", &pace.first_us);
    read_field(from, to, "gap_us=", &pace.gap_us);
    read_field(from, to, "tokens=", &pace.tokens);
    read_field(from, to, "bytes=", &pace.bytes);
    read_field(from, to, "per_write=", &pace.per_write);
    read_field(from, to, "together=", &pace.together);
    if (pace.per_write < 1) pace.per_write = 1;
    if (pace.bytes > MAX_EVENT - 64) pace.bytes = MAX_EVENT - 64;
    while (pace.per_write > 1 && pace.per_write * (pace.bytes + AROUND) > MAX_WRITE) pace.per_write /= 2;
    return pace;
}

static int begin(struct stream *s)
{
    char out[2048];
    s->read_ns = now_ns();
    s->sent = s->lag_ns = 0;
    s->state = ANSWERING;
    s->due_ns = s->read_ns + s->pace.first_us * 1000;
    int64_t tick = s->pace.gap_us * 1000;
    if (s->pace.together && tick) s->due_ns = (s->due_ns + tick - 1) / tick * tick;
    enqueue(s);
    char *at = add(out, OK, sizeof OK - 1);
    at = add_chunk(at, ROLE, sizeof ROLE - 1);
    return send_now(s, out, at - out);
}

static int tell_models(struct stream *s)
{
    static const char models[] =
        "HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: application/json\r\n"
        "content-length: 56\r\n\r\n{\"object\":\"list\",\"data\":[{\"id\":\"sim\",\"object\":\"model\"}]}";
    s->head_length = 0;
    return send_now(s, models, sizeof models - 1);
}

static int64_t header(const struct stream *s, const char *end, const char *name, int64_t otherwise)
{
    const char *found = strcasestr(s->head, name);
    return found && found < end ? atoll(found + strlen(name)) : otherwise;
}

static int read_head(struct stream *s, const struct pace *usual)
{
    s->head[s->head_length] = 0;
    char *end = strstr(s->head, "\r\n\r\n");
    if (!end) return s->head_length < HEAD_BYTES - 1;
    if (!strncmp(s->head, "GET ", 4)) return tell_models(s);
    s->pace = read_pace(s->head, strchr(s->head, '\r'), *usual);
    s->pace.tokens = header(s, end, "\nx-agentperf-osl:", s->pace.tokens);
    if (s->pace.tokens < 1) s->pace.tokens = 1;
    s->number = header(s, end, "\nx-stream:", -1);
    s->body_left = header(s, end, "\ncontent-length:", 0);
    s->body_left -= s->head + s->head_length - (end + 4);
    s->state = READING_BODY;
    return 1;
}

/* Takes all that has come; returns 0 when the connection is gone or breaks the rules. */
static int read_all(struct stream *s, const struct pace *usual)
{
    static char thrown_away[1 << 20];
    for (;;) {
        ssize_t got;
        if (s->state == READING_HEAD) {
            got = recv(s->fd, s->head + s->head_length, HEAD_BYTES - 1 - s->head_length, MSG_DONTWAIT);
            if (got > 0) {
                s->head_length += (int)got;
                if (!read_head(s, usual)) return 0;
            }
        } else if (s->state == READING_BODY) {
            int64_t most = sizeof thrown_away;
            if (most > s->body_left) most = s->body_left;
            got = recv(s->fd, thrown_away, most, MSG_DONTWAIT | MSG_TRUNC);
            if (got > 0) s->body_left -= got;
        } else { /* nothing may come now but the end */
            got = recv(s->fd, thrown_away, 1, MSG_DONTWAIT | MSG_PEEK);
            return got < 0 && errno == EAGAIN;
        }
        if (s->state == READING_BODY && s->body_left <= 0) return begin(s);
        if (got <= 0) return got < 0 && errno == EAGAIN;
    }
}

/* ---- the loop ---- */

static volatile sig_atomic_t asked_to_end;

static void ask_to_end(int signal) { asked_to_end = signal; }

static void drop(struct stream *s)
{
    char truth[512];
    if (s->state == ANSWERING) tell(s, truth, sizeof truth); /* what was cut off was work, too */
    dequeue(s);
    close(s->fd);
    free(s->rest);
    free(s);
}

/* Sends to the streams that are due, at most a batch of them; tells whether more may be. */
static int pace_streams(void)
{
    int done = 0;
    for (; queued && done < BATCH; done++) {
        struct stream *s = queue[0];
        int64_t late = now_ns() - s->due_ns;
        if (late < 0) break;
        if (s->pace.gap_us && late > s->lag_ns) s->lag_ns = late;
        if (s->rest_length > (s->pace.gap_us ? MAX_WRITE : 0)) { /* the client is behind */
            s->due_ns += late + 200000;
            sink(0);
            continue;
        }
        if (!send_due(s)) {
            shutdown(s->fd, SHUT_RDWR); /* the loop hears of it and drops it */
            dequeue(s);
        } else if (s->place >= 0) {
            s->due_ns += s->pace.gap_us * 1000;
            sink(0);
        }
    }
    return done == BATCH;
}

static void accept_all(int listening, int loop)
{
    int fd, on = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct stream *s = calloc(1, sizeof *s);
        s->fd = fd;
        s->place = -1;
        struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = s}};
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static int listen_anywhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(fd, (void *)&address, length) || listen(fd, 4096) ||
        getsockname(fd, (void *)&address, &length)) {
        perror("origin");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(int listening, int loop, const struct pace *usual)
{
    struct epoll_event seen[256];
    while (!asked_to_end) {
        int more = pace_streams();
        /* The kernel wakes us some 60 us late: the last stretch is waited for by looking. */
        int64_t left_ns = queued ? queue[0]->due_ns - now_ns() - 100000 : 1000000000;
        struct timespec wait = {0, more || left_ns < 0 ? 0 : left_ns};
        if (wait.tv_nsec > 999999999) wait.tv_nsec = 999999999;
        int number = epoll_pwait2(loop, seen, 256, &wait, NULL);
        for (int k = 0; k < number; k++) {
            struct stream *s = seen[k].data.ptr;
            if (!s) {
                accept_all(listening, loop);
                continue;
            }
            int alive = !(seen[k].events & (EPOLLERR | EPOLLHUP));
            if (alive && seen[k].events & EPOLLOUT) alive = send_rest(s);
            if (alive && seen[k].events & (EPOLLIN | EPOLLRDHUP)) alive = read_all(s, usual);
            if (!alive) drop(s);
        }
    }
}

int main(int count, char **arguments)
{
    struct pace usual = {.first_us = 200000, .gap_us = 20000, .tokens = 75, .bytes = 250,
                         .per_write = 1};
    if (count > 1) usual = read_pace(arguments[1], arguments[1] + strlen(arguments[1]), usual);
    if (count > 2) log_file = fopen(arguments[2], "w");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGTERM, ask_to_end);
    int loop = epoll_create1(0), listening = listen_anywhere();
    struct epoll_event wanted = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(loop, EPOLL_CTL_ADD, listening, &wanted);
    serve(listening, loop, &usual);
    if (log_file) fclose(log_file);
    return 0;
}
