/* A stream of the origin, and the queue of those that are due: a binary heap by time. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { HEAD_BYTES = 8192 };
enum state { READING_HEAD, READING_BODY, ANSWERING, ENDING };

struct pace {
    int64_t first_us, gap_us, tokens, bytes, per_write, together;
};

struct stream {
    int fd, head_length, place; /* place: where it stands in the queue of due streams, or -1 */
    enum state state;
    struct pace pace;
    int64_t number, body_left, sent, due_ns, read_ns, first_ns, last_ns, lag_ns;
    char *rest; /* what the kernel had no room for */
    size_t rest_length, rest_room;
    char head[HEAD_BYTES];
};

static struct stream **queue;
static int queued, queue_room;

static void put(int place, struct stream *s)
{
    queue[place] = s;
    s->place = place;
}

static void rise(int place)
{
    struct stream *s = queue[place];
    for (; place && queue[(place - 1) / 2]->due_ns > s->due_ns; place = (place - 1) / 2)
        put(place, queue[(place - 1) / 2]);
    put(place, s);
}

static void sink(int place)
{
    struct stream *s = queue[place];
    for (int child; (child = 2 * place + 1) < queued; place = child) {
        if (child + 1 < queued && queue[child + 1]->due_ns < queue[child]->due_ns) child++;
        if (queue[child]->due_ns >= s->due_ns) break;
        put(place, queue[child]);
    }
    put(place, s);
}

static void enqueue(struct stream *s)
{
    if (queued == queue_room) {
        queue_room = queue_room ? 2 * queue_room : 1024;
        queue = realloc(queue, queue_room * sizeof *queue);
    }
    put(queued++, s);
    rise(s->place);
}

static void dequeue(struct stream *s)
{
    int place = s->place;
    if (place < 0) return;
    s->place = -1;
    struct stream *last = queue[--queued];
    if (last == s) return;
    put(place, last);
    rise(place);
    sink(last->place);
}
