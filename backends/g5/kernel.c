/* The event loop of the command simulator, compiled: what backends/g5/machine.py does, for any number of commands.

   machine.py says what the parts of the machine do and is the oracle: a test holds both equal, command by command.  This
   file adds one thing, the exact skipping of loop iterations.  Cores run segments: `rows` rows of commands, `repeats`
   times.  When a core comes to the start of another repetition it stops until the events have come to that time, so that
   the machine has a state there.  All that can still have an effect is written down relative to that time and to the
   commands given so far.  Where two such states are equal, everything between them happens again and again, `period`
   later each time, as long as all cores repeat the same rows: these repetitions are left out, and a jump is noted. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ENGINES 5
#define GDMA 1
#define SDMA 2
#define BARRIER 5 /* the number that a row has in place of an engine */
#define NONE (-1)
#define FREE INT32_MAX /* the lag behind an engine that is not awaited */

enum { BY_PROGRAM, BY_ENGINE, BY_WAIT, BY_ISSUE, BY_BARRIER, BY_SHARED };
enum { OWN, DRAM, PORT, DIES };
enum { OK, DEADLOCK, NO_MEMORY };

typedef int64_t i64;

typedef struct {
    i64 cores, rows, channels, dies, groups, depth, issue_ps, barrier_ps, cores_per_die, skip;
    const i64 *engine, *lag, *fixed, *transfer, *port, *share, *source, *die, *group; /* per row; lag per engine too */
    const i64 *share_start, *share_channel, *share_ps;                                /* channels of each share */
    const i64 *group_size, *group_owner;                                              /* cores of a group, the lowest */
    const i64 *segment_start, *segment_first, *segment_rows, *segment_repeats;        /* segments of each core */
} Program;

typedef struct {
    i64 count, duration, jumps, jump_room;
    i64 *core, *row, *start, *end, *reason, *cause, *limit; /* per command, by core and then as they were given */
    i64 *jump;                                              /* per jump: times, period, then per core: given, length */
} Result;

/* A row, and a command that was given: what is used together lies together.  There are fewer than 2^31 of either. */
typedef struct {
    i64 fixed, transfer, port, die;
    int32_t lag[ENGINES], share, source, group, engine;
} Row;

typedef struct {
    i64 start, end, taken; /* taken: when its engine took it from the queue */
    int32_t core, row, cause, ordinal; /* the ordinal is that on its core */
    int8_t reason, limit;
} Record;

typedef struct {
    int32_t record, given[ENGINES];
} Waiting;

typedef struct {
    Waiting *queue; /* a ring */
    i64 head, waiting, started, given, finished;
    int32_t *record; /* in the order of their ids */
    i64 room;
    int busy;
} Engine;

typedef struct {
    i64 segment, last_segment, offset, iteration, front, cause, reason, given, order;
    int held, at_barrier;
    Engine engine[ENGINES];
} Core;

typedef struct {
    i64 time, priority, record, group;
} Event;

typedef struct {
    const Program *p;
    Result *r;
    Row *row;
    Record *record; /* in the order in which they were given */
    i64 count, room;
    Core *cores;
    Event *heap;
    i64 events;
    i64 *channel, *port, *die;
    i64 **member, *members; /* of every group the records that have come to it */
    i64 open, barred, last, last_record, now;
    i64 longest[ENGINES];
    i64 ring; /* a power of two less one: the size of a queue in memory */
    /* states */
    i64 lead, *state, *saved, *iteration, *given, *engine_given, size, saved_size, state_room, saved_room, saved_now;
    i64 power, steps;
    int failed, state_wanted;
} Machine;

static i64 max(i64 a, i64 b) { return a > b ? a : b; }

static void *grown(Machine *m, void *old, i64 *room, i64 item) {
    i64 wanted = *room ? 2 * *room : 16;
    void *found = realloc(old, (size_t)(wanted * item));
    if (!found) {
        m->failed = NO_MEMORY;
        return old;
    }
    *room = wanted;
    return found;
}

/* -- events -------------------------------------------------------------------------------------------------------- */

static int before(const Event *a, const Event *b) {
    return a->time < b->time || (a->time == b->time && a->priority < b->priority);
}

static void add(Machine *m, i64 time, i64 priority, i64 record, i64 group) {
    i64 at = m->events++;
    Event new = {time, priority, record, group};
    while (at && before(&new, &m->heap[(at - 1) / 2])) {
        m->heap[at] = m->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    m->heap[at] = new;
}

static Event take(Machine *m) {
    Event first = m->heap[0], moved = m->heap[--m->events];
    i64 at = 0, child;
    while ((child = 2 * at + 1) < m->events) {
        if (child + 1 < m->events && before(&m->heap[child + 1], &m->heap[child])) child++;
        if (!before(&m->heap[child], &moved)) break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = moved;
    return first;
}

/* -- cores --------------------------------------------------------------------------------------------------------- */

static i64 new_record(Machine *m, i64 core, i64 row) {
    if (m->count == m->room) m->record = grown(m, m->record, &m->room, sizeof(Record));
    if (m->failed) return NONE;
    Record *r = &m->record[m->count];
    r->core = (int32_t)core;
    r->row = (int32_t)row;
    r->limit = OWN;
    r->ordinal = (int32_t)m->cores[core].given++;
    return m->count++;
}

/* The row that a core gives next; NONE at its end and while it is held. */
static i64 next_row(Machine *m, Core *c, i64 number) {
    const Program *p = m->p;
    while (c->segment < c->last_segment) {
        i64 s = c->segment;
        if (c->offset < p->segment_rows[s] && c->iteration < p->segment_repeats[s]) {
            return c->held ? NONE : p->segment_first[s] + c->offset;
        }
        c->offset = 0;
        if (c->iteration + 1 < p->segment_repeats[s] && p->segment_rows[s]) {
            c->iteration++;
            if (p->skip && p->segment_repeats[s] > 2) {
                c->held = 1;
                add(m, c->front, number * 8, NONE, NONE);
                return NONE;
            }
        } else {
            c->segment++;
            c->iteration = 0;
        }
    }
    return NONE;
}

static int give(Machine *m, Core *c, i64 number) {
    const Program *p = m->p;
    int given = 0;
    i64 row;
    while (!m->failed && !c->at_barrier && (row = next_row(m, c, number)) != NONE) {
        if (m->row[row].engine == BARRIER) {
            c->at_barrier = 1;
            m->barred++;
            break;
        }
        Engine *e = &c->engine[m->row[row].engine];
        i64 before_it = e->started + e->waiting;
        if (before_it >= p->depth) {
            i64 room = before_it - p->depth;
            if (e->started <= room) break;
            room = e->record[room];
            if (m->record[room].taken > c->front) {
                c->front = m->record[room].taken;
                c->cause = room;
                c->reason = BY_ISSUE;
            }
        }
        c->front += p->issue_ps;
        i64 record = new_record(m, number, row);
        if (e->given == e->room) e->record = grown(m, e->record, &e->room, sizeof(int32_t));
        if (m->failed) return 0;
        Record *r = &m->record[record];
        r->start = c->front;
        r->cause = (int32_t)c->cause;
        r->reason = (int8_t)c->reason;
        Waiting *w = &e->queue[(e->head + e->waiting++) & m->ring];
        w->record = (int32_t)record;
        for (int i = 0; i < ENGINES; i++) w->given[i] = (int32_t)c->engine[i].given;
        e->record[e->given++] = (int32_t)record;
        c->offset++;
        m->open++;
        given = 1;
    }
    return given;
}

static void finish(Machine *m, i64 record, i64 end) {
    Record *r = &m->record[record];
    r->end = end;
    m->cores[r->core].engine[m->row[r->row].engine].finished++;
    if (end >= m->last) {
        const Record *last = m->last_record == NONE ? NULL : &m->record[m->last_record];
        if (end > m->last ||
            (last && (r->core < last->core || (r->core == last->core && record < m->last_record)))) {
            m->last = end;
            m->last_record = record;
        }
    }
    m->open--;
}

static void request(Machine *m, i64 record, i64 number, i64 engine) {
    const Program *p = m->p;
    Record *r = m->record;
    const Row *row = &m->row[r[record].row];
    i64 group = row->group;
    if (group == NONE) {
        add(m, r[record].start + row->fixed, number * 8 + 1 + engine, record, NONE);
        return;
    }
    i64 *member = m->member[group];
    i64 at = m->members[group]++;
    for (; at && r[member[at - 1]].core > number; at--) member[at] = member[at - 1];
    member[at] = record;
    if (m->members[group] < p->group_size[group]) return;
    i64 latest = member[0], asks = 0;
    for (i64 i = 1; i < m->members[group]; i++) {
        i64 other = member[i];
        if (r[other].start > r[latest].start ||
            (r[other].start == r[latest].start && r[other].core > r[latest].core))
            latest = other;
    }
    i64 time = r[latest].start;
    for (i64 i = 0; i < m->members[group]; i++) {
        Record *one = &r[member[i]];
        if (one->start < time) {
            one->start = time;
            one->reason = BY_SHARED;
            one->cause = (int32_t)latest;
        }
        asks = max(asks, time + m->row[one->row].fixed);
    }
    add(m, asks, p->group_owner[group] * 8 + 1 + engine, NONE, group);
}

static int begin(Machine *m, Core *c, i64 number, i64 engine) {
    Engine *e = &c->engine[engine];
    const Waiting *w = &e->queue[e->head];
    i64 record = w->record;
    Record *r = &m->record[record];
    const Row *row = &m->row[r->row];
    for (int i = 0; i < ENGINES; i++)
        if (c->engine[i].finished < (i64)w->given[i] - row->lag[i]) return 0;
    i64 time = r->start;
    if (e->finished) {
        int32_t last = e->record[e->finished - 1];
        if (m->record[last].end >= time) {
            time = m->record[last].end;
            r->reason = BY_ENGINE;
            r->cause = last;
        }
    }
    for (int i = 0; i < ENGINES; i++) {
        i64 id = (i64)w->given[i] - row->lag[i];
        if (id > 0) {
            int32_t awaited = c->engine[i].record[id - 1];
            if (m->record[awaited].end > time) {
                time = m->record[awaited].end;
                r->reason = BY_WAIT;
                r->cause = awaited;
            }
        }
    }
    e->head = (e->head + 1) & m->ring;
    e->waiting--;
    e->started++;
    r->start = r->taken = time;
    if (engine == GDMA || engine == SDMA) {
        e->busy = 1;
        request(m, record, number, engine);
    } else {
        finish(m, record, time + row->fixed);
    }
    return 1;
}

static void advance(Machine *m, i64 number) {
    Core *c = &m->cores[number];
    int progress = 1;
    while (progress && !m->failed) {
        progress = give(m, c, number);
        for (int engine = 0; engine < ENGINES; engine++) {
            Engine *e = &c->engine[engine];
            while (e->waiting && !e->busy && begin(m, c, number, engine)) progress = 1;
        }
    }
}

static i64 serve(i64 *free, i64 time, i64 service) { return *free = max(*free, time) + service; }

/* The same for every channel at once; compilers turn this into vector instructions. */
static i64 serve_all(i64 *restrict free, const i64 *restrict service, i64 count, i64 time) {
    i64 last = 0;
    for (i64 i = 0; i < count; i++) {
        i64 done = (free[i] > time ? free[i] : time) + service[i];
        free[i] = done;
        last = done > last ? done : last;
    }
    return last;
}

static void transfer(Machine *m, const i64 *member, i64 members, i64 time) {
    const Program *p = m->p;
    i64 served = 0, share = m->row[m->record[member[0]].row].share;
    if (share != NONE) {
        i64 first = p->share_start[share], count = p->share_start[share + 1] - first;
        if (count == p->channels) served = serve_all(m->channel, p->share_ps + first, count, time);
        else
            for (i64 i = first; i < first + count; i++)
                served = max(served, serve(&m->channel[p->share_channel[i]], time, p->share_ps[i]));
    }
    for (i64 i = 0; i < members; i++) {
        Record *r = &m->record[member[i]];
        const Row *row = &m->row[r->row];
        i64 core = r->core, source = row->source;
        i64 ends[] = {time + row->transfer, served, serve(&m->port[core], time, row->port), 0};
        if (source != NONE && source != core) ends[PORT] = max(ends[PORT], serve(&m->port[source], time, row->port));
        if (row->die) ends[DIES] = serve(&m->die[source / p->cores_per_die], time, row->die);
        int limit = OWN;
        for (int j = DRAM; j <= DIES; j++)
            if (ends[j] > ends[limit]) limit = j;
        r->limit = (int8_t)limit;
        m->cores[core].engine[row->engine].busy = 0;
        finish(m, member[i], ends[limit]);
    }
    for (i64 i = 0; i < members; i++) advance(m, m->record[member[i]].core);
}

static void pass_barriers(Machine *m) {
    while (m->barred == m->p->cores && !m->open && !m->failed) {
        m->barred = 0;
        m->last += m->p->barrier_ps;
        for (i64 i = 0; i < m->p->cores; i++) {
            Core *c = &m->cores[i];
            c->front = m->last;
            c->cause = m->last_record;
            c->reason = BY_BARRIER;
            c->at_barrier = 0;
            c->offset++;
        }
        for (i64 i = 0; i < m->p->cores; i++) advance(m, i);
    }
}

/* -- skipping ------------------------------------------------------------------------------------------------------ */

static void put(Machine *m, i64 value) {
    if (m->size == m->state_room) m->state = grown(m, m->state, &m->state_room, sizeof(i64));
    if (!m->failed) m->state[m->size++] = value;
}

/* A time that no longer matters when it has come, but for whether it is this very moment. */
static void put_time(Machine *m, i64 time, i64 now) { put(m, time > now ? time - now : time == now ? 0 : -1); }

/* A record as a cause: which core's, and how many commands ago. */
static void put_cause(Machine *m, i64 record, i64 reason) {
    if (record == NONE || reason == BY_PROGRAM || reason == BY_BARRIER) {
        put(m, NONE);
        put(m, record);
    } else {
        i64 core = m->record[record].core;
        put(m, core);
        put(m, m->cores[core].given - m->record[record].ordinal);
    }
}

static void put_record_end(Machine *m, i64 record, i64 now) {
    put_time(m, m->record[record].end, now);
    if (m->record[record].end >= now) put_cause(m, record, BY_WAIT);
}

static void put_given(Machine *m, i64 record) {
    put(m, m->record[record].row);
    put(m, m->record[record].start - m->now);
    put(m, m->record[record].reason);
    put_cause(m, record, BY_WAIT);
    put_cause(m, m->record[record].cause, m->record[record].reason);
}

static void put_engine(Machine *m, Core *c, int engine) {
    const Program *p = m->p;
    Engine *e = &c->engine[engine];
    put(m, e->waiting);
    put(m, e->given - e->finished);
    put(m, e->busy);
    if (e->busy) put_given(m, e->record[e->started - 1]);
    for (i64 i = 0; i < e->waiting; i++) {
        Waiting *w = &e->queue[(e->head + i) & m->ring];
        put_given(m, w->record);
        for (int j = 0; j < ENGINES; j++) {
            i64 lag = m->row[m->record[w->record].row].lag[j], id = w->given[j] - lag;
            if (lag >= FREE) continue;
            put(m, w->given[j] - c->engine[j].given);
            if (id <= 0) put(m, -3);
            else if (id > c->engine[j].finished) put(m, -2);
            else put_record_end(m, c->engine[j].record[id - 1], m->record[w->record].start);
        }
    }
    /* What may be waited for, what the next command comes after, and what leaves room in the queue. */
    i64 since = e->waiting ? m->record[e->queue[e->head].record].start : c->front;
    if (e->finished) put_record_end(m, e->record[e->finished - 1], since);
    for (i64 back = 0; back <= m->longest[engine]; back++) {
        i64 id = e->given - back;
        if (id <= 0) put(m, -3);
        else if (id > e->finished) put(m, -2);
        else put_record_end(m, e->record[id - 1], c->front);
    }
    for (i64 i = e->started + e->waiting - p->depth; i < e->started; i++) {
        if (i < 0) put(m, -3);
        else {
            put_time(m, m->record[e->record[i]].taken, c->front);
            if (m->record[e->record[i]].taken > c->front) put_cause(m, e->record[i], BY_ISSUE);
        }
    }
}

static int by_event(const void *a, const void *b) { return before(a, b) ? -1 : before(b, a) ? 1 : 0; }

static void write_state(Machine *m) {
    const Program *p = m->p;
    m->size = 0;
    for (i64 i = 0; i < p->cores; i++) {
        Core *c = &m->cores[i];
        int done = c->segment >= c->last_segment;
        put(m, c->segment);
        put(m, c->offset);
        put(m, c->held + 2 * c->at_barrier);
        if (!done && !c->at_barrier) {
            put(m, c->front - m->now);
            put(m, c->reason);
            put_cause(m, c->cause, c->reason);
        }
        for (int engine = 0; engine < ENGINES; engine++) put_engine(m, c, engine);
    }
    for (i64 i = 0; i < p->channels; i++) put(m, max(m->channel[i] - m->now, 0));
    for (i64 i = 0; i < p->dies * p->cores_per_die; i++) put(m, max(m->port[i] - m->now, 0));
    for (i64 i = 0; i < p->dies; i++) put(m, max(m->die[i] - m->now, 0));
    for (i64 i = 0; i < p->groups; i++) {
        put(m, m->members[i]);
        for (i64 j = 0; j < m->members[i]; j++) put_given(m, m->member[i][j]);
    }
    put_time(m, m->last, m->now);
    if (m->last >= m->now && m->last_record != NONE) put_cause(m, m->last_record, BY_WAIT);
    /* A sorted list is a heap too. */
    qsort(m->heap, (size_t)m->events, sizeof(Event), by_event);
    put(m, m->events);
    for (i64 i = 0; i < m->events; i++) {
        put(m, m->heap[i].time - m->now);
        put(m, m->heap[i].priority);
    }
}

/* How often what happened since the saved state can be left out; one time is kept for the commands still at work. */
static i64 repetitions(Machine *m) {
    const Program *p = m->p;
    i64 times = INT64_MAX;
    for (i64 i = 0; i < p->cores; i++) {
        Core *c = &m->cores[i];
        i64 made = c->iteration - m->iteration[i];
        for (int j = 0; j < ENGINES; j++)
            if (c->engine[j].finished < m->engine_given[i * ENGINES + j]) return 0;
        if (made < 0 || (!made && c->given != m->given[i])) return 0;
        if (made) {
            i64 left = (p->segment_repeats[c->segment] - c->iteration - made - 1) / made;
            if (left < times) times = left;
        }
    }
    return times == INT64_MAX ? 0 : max(times, 0);
}

static void jump(Machine *m, i64 times) {
    const Program *p = m->p;
    Result *r = m->r;
    i64 size = 2 + 2 * p->cores;
    if (r->jumps == r->jump_room) r->jump = grown(m, r->jump, &r->jump_room, size * (i64)sizeof(i64));
    if (m->failed) return;
    i64 *note = r->jump + size * r->jumps++;
    *note++ = times;
    *note++ = m->now - m->saved_now;
    for (i64 i = 0; i < p->cores; i++) {
        Core *c = &m->cores[i];
        *note++ = c->given;
        *note++ = c->given - m->given[i];
        c->iteration += times * (c->iteration - m->iteration[i]);
    }
}

static void save(Machine *m) {
    i64 *state = m->saved, room = m->saved_room;
    m->saved = m->state, m->saved_room = m->state_room, m->saved_size = m->size;
    m->state = state, m->state_room = room;
    m->saved_now = m->now;
    for (i64 i = 0; i < m->p->cores; i++) {
        m->iteration[i] = m->cores[i].iteration;
        m->given[i] = m->cores[i].given;
        for (int j = 0; j < ENGINES; j++) m->engine_given[i * ENGINES + j] = m->cores[i].engine[j].given;
    }
}

/* Compare this state with the saved one; save it after 1, 2, 4, .. comparisons, so that any period is found. */
static void look_for_repetition(Machine *m) {
    write_state(m);
    if (m->failed) return;
    if (m->saved_size == m->size && !memcmp(m->saved, m->state, (size_t)m->size * sizeof(i64))) {
        i64 times = repetitions(m);
        if (times) {
            jump(m, times);
            m->saved_size = NONE;
            m->power = 1, m->steps = 0;
            return;
        }
    }
    if (m->saved_size == NONE || ++m->steps == m->power) {
        save(m);
        if (m->steps) m->power *= 2;
        m->steps = 0;
    }
}

/* The core at whose repetitions states are compared: the first that has some left. */
static i64 leader(Machine *m) {
    const Program *p = m->p;
    for (i64 i = m->lead; i < p->cores; i++, m->lead++)
        for (i64 s = m->cores[i].segment; s < m->cores[i].last_segment; s++)
            if (p->segment_repeats[s] - (s == m->cores[i].segment ? m->cores[i].iteration : 0) > 2) return i;
    return NONE;
}

/* -- the result ---------------------------------------------------------------------------------------------------- */

/* Write the commands down by core; their causes are places in this order. */
static void write_result(Machine *m) {
    Result *r = m->r;
    i64 **columns[] = {&r->core, &r->row, &r->start, &r->end, &r->reason, &r->cause, &r->limit};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (!(*columns[i] = malloc((size_t)(m->count + 1) * sizeof(i64)))) m->failed = NO_MEMORY;
    i64 *first = malloc((size_t)m->p->cores * sizeof(i64)), commands = 0;
    if (!first) m->failed = NO_MEMORY;
    for (i64 i = 0; i < m->p->cores && !m->failed; i++) {
        first[i] = commands;
        commands += m->cores[i].given;
    }
    for (i64 i = 0; i < m->count && !m->failed; i++) {
        const Record *one = &m->record[i];
        i64 place = first[one->core] + one->ordinal;
        const Record *cause = one->cause == NONE ? NULL : &m->record[one->cause];
        r->core[place] = one->core;
        r->row[place] = one->row;
        r->start[place] = one->start;
        r->end[place] = one->end;
        r->reason[place] = one->reason;
        r->cause[place] = cause ? first[cause->core] + cause->ordinal : NONE;
        r->limit[place] = one->limit;
    }
    r->count = m->count;
    free(first);
}

/* -- the run ------------------------------------------------------------------------------------------------------- */

static int build(Machine *m, const Program *p, Result *r) {
    memset(m, 0, sizeof *m);
    m->p = p, m->r = r;
    m->row = calloc((size_t)p->rows + 1, sizeof(Row));
    m->room = p->rows; /* enough where no loop runs */
    m->record = calloc((size_t)p->rows + 1, sizeof(Record));
    m->cores = calloc((size_t)p->cores, sizeof(Core));
    m->heap = calloc((size_t)(p->cores * 8 + 8), sizeof(Event));
    m->channel = calloc((size_t)p->channels + 1, sizeof(i64));
    m->port = calloc((size_t)(p->dies * p->cores_per_die), sizeof(i64));
    m->die = calloc((size_t)p->dies + 1, sizeof(i64));
    m->member = calloc((size_t)p->groups + 1, sizeof(i64 *));
    m->members = calloc((size_t)p->groups + 1, sizeof(i64));
    m->iteration = calloc((size_t)p->cores, sizeof(i64));
    m->given = calloc((size_t)p->cores, sizeof(i64));
    m->engine_given = calloc((size_t)p->cores * ENGINES, sizeof(i64));
    m->last_record = NONE, m->saved_size = NONE, m->power = 1;
    while (m->ring + 1 < p->depth) m->ring = 2 * m->ring + 1;
    if (!m->row || !m->record || !m->cores || !m->heap || !m->channel || !m->port || !m->die || !m->member || !m->members || !m->iteration ||
        !m->given || !m->engine_given)
        return 0;
    for (i64 i = 0; i < p->groups; i++)
        if (!(m->member[i] = calloc((size_t)p->group_size[i], sizeof(i64)))) return 0;
    for (i64 i = 0; i < p->cores; i++) {
        Core *c = &m->cores[i];
        c->segment = p->segment_start[i], c->last_segment = p->segment_start[i + 1];
        c->cause = NONE;
        for (int j = 0; j < ENGINES; j++)
            if (!(c->engine[j].queue = calloc((size_t)m->ring + 1, sizeof(Waiting)))) return 0;
    }
    for (i64 i = 0; i < p->rows; i++) {
        Row *row = &m->row[i];
        *row = (Row){p->fixed[i], p->transfer[i], p->port[i], p->die[i], {0}, (int32_t)p->share[i],
                     (int32_t)p->source[i], (int32_t)p->group[i], (int32_t)p->engine[i]};
        for (int j = 0; j < ENGINES; j++) {
            i64 lag = p->lag[i * ENGINES + j];
            row->lag[j] = lag < FREE ? (int32_t)lag : FREE;
            if (lag < FREE) m->longest[j] = max(m->longest[j], lag);
        }
    }
    return 1;
}

static void drop(Machine *m) {
    if (m->cores)
        for (i64 i = 0; i < m->p->cores; i++)
            for (int j = 0; j < ENGINES; j++) {
                free(m->cores[i].engine[j].queue);
                free(m->cores[i].engine[j].record);
            }
    if (m->member)
        for (i64 i = 0; i < m->p->groups; i++) free(m->member[i]);
    void *all[] = {m->row,     m->record,    m->cores, m->heap,  m->channel,      m->port, m->die, m->member,
                   m->members, m->iteration, m->given, m->state, m->engine_given, m->saved};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

int pmc_simulate(const Program *p, Result *r) {
    Machine m;
    memset(r, 0, sizeof *r);
    if (!build(&m, p, r)) m.failed = NO_MEMORY;
    for (i64 i = 0; i < p->cores && !m.failed; i++) advance(&m, i);
    if (!m.failed) pass_barriers(&m);
    while (m.events && !m.failed) {
        Event event = take(&m);
        m.now = event.time;
        if (event.group != NONE) {
            i64 count = m.members[event.group];
            m.members[event.group] = 0;
            /* Members may come to the group again while they go on: let these find an empty list. */
            i64 *members = malloc((size_t)count * sizeof(i64));
            if (!members) {
                m.failed = NO_MEMORY;
                break;
            }
            memcpy(members, m.member[event.group], (size_t)count * sizeof(i64));
            transfer(&m, members, count, event.time);
            free(members);
        } else if (event.record != NONE) {
            transfer(&m, &event.record, 1, event.time);
        } else {
            i64 number = event.priority / 8;
            if (leader(&m) == number) look_for_repetition(&m);
            m.cores[number].held = 0;
            advance(&m, number);
        }
        pass_barriers(&m);
    }
    int stuck = m.open || m.barred;
    for (i64 i = 0; i < p->cores && !m.failed; i++) {
        Core *c = &m.cores[i];
        stuck |= c->segment < c->last_segment && next_row(&m, c, i) != NONE;
    }
    r->duration = m.last;
    if (!m.failed && !stuck) write_result(&m);
    int failed = m.failed ? m.failed : stuck ? DEADLOCK : OK;
    drop(&m);
    return failed;
}

void pmc_free(Result *r) {
    void *all[] = {r->core, r->row, r->start, r->end, r->cause, r->reason, r->limit, r->jump};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}
