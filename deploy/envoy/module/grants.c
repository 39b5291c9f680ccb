/* A filter of Envoy that decides requests by units of calls that the service has granted ahead (docs/adr/0038, 0044).
 *
 * A request takes one unit of its key. The main thread asks for units, in time as a rule, and returns those that are not
 * spent; a request that finds none is held until the response. So no request's end cancels a call that others wait for.
 * What cannot be granted ahead, and the first call of a key, is checked one by one (CheckLimit), by the request itself.
 *
 * Threads: W is an Envoy worker, M its main thread. Keys are in shards, each with a lock, which guards all of its keys and
 * what waits for them. The lock of the queue of M is taken after that of a shard. Times are nanoseconds of CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- Envoy's ABI, version 0.1, as far as it is needed ---- */

typedef struct {
    const char *data;
    size_t size;
} Text;

typedef struct {
    const char *name;
    size_t name_size;
    const char *value;
    size_t value_size;
} Header;

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { CONTINUE = 0, STOP = 1, STOP_AND_WATERMARK = 2 };

#define ENVOY(name) envoy_dynamic_module_callback_http_##name
extern bool ENVOY(get_header)(void *, int, Text, Text *, size_t, size_t *);
extern bool ENVOY(add_header)(void *, int, Text, Text);
extern void ENVOY(send_response)(void *, uint32_t, Header *, size_t, Text, Text);
extern void ENVOY(filter_continue_decoding)(void *);
extern void *ENVOY(filter_scheduler_new)(void *);
extern void ENVOY(filter_scheduler_delete)(void *);
extern void ENVOY(filter_scheduler_commit)(void *, uint64_t);
extern void *ENVOY(filter_config_scheduler_new)(void *);
extern void ENVOY(filter_config_scheduler_delete)(void *);
extern void ENVOY(filter_config_scheduler_commit)(void *, uint64_t);
extern int ENVOY(filter_http_callout)(void *, uint64_t *, Text, Header *, size_t, Text, uint64_t);
extern int ENVOY(filter_config_http_callout)(void *, uint64_t *, Text, Header *, size_t, Text, uint64_t);

#define TEXT(text) ((Text){text, sizeof text - 1})
#define HEADER(name, value) {name, sizeof name - 1, (value).data, (value).size}

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define SHARDS 64
#define BUCKETS 256         /* of a shard */
#define MAX_KEYS 100000     /* of a configuration: calls of others are checked one by one */
#define MAX_STRANGERS 16    /* keys of a shard that the service has not named yet: made up ones grow no table, and no chain */
#define MAX_CREDENTIAL 256
#define MAX_RESOURCE 256    /* of a longer path, so many bytes */
#define MAX_LINES 64        /* resources of one key that are counted at a time */
#define MAX_REPORTED 128    /* lines in one request, whose size the service bounds, too */
#define MAX_POOLS 16
#define MAX_RETURNS 64
#define MAX_NAME 65         /* of a limit */
#define MAX_UNITS 1000000
#define TICK (10 * MS)      /* in which M examines keys that have units */
#define TOO_OLD (25 * SECOND)
#define FORGET (10 * SECOND)
#define REPORT (5 * SECOND)
#define QUIET SECOND
#define AWAY (100 * MS)     /* for which nothing is asked for a key after a call of the service has failed */
#define MARGIN (2 * MS)
#define MAX_DENIAL SECOND
#define MAX_TTL SECOND
#define MAX_WAIT (31536000 * SECOND)
#define MAX_NUMBER (INT64_C(1) << 53) /* that a response has: sums of a few are no overflow */

enum Reason { WITHIN_LIMIT = 1, KEY_UNKNOWN = 4, KEY_REVOKED = 5, KEY_SUSPENDED = 6, KEY_EXPIRED = 7, DEGRADED_DENIED = 9 };
enum { OVER_LIMIT = 2, STORE_UNAVAILABLE = 6 };
enum { CANCELLED = 1, UNKNOWN = 2, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, ABORTED = 10, UNIMPLEMENTED = 12, INTERNAL = 13 };
enum { UNAVAILABLE = 14, DATA_LOSS = 15 };
enum Verdict { NONE, ALLOWED, DENIED, FAILED, REFUSED, ALONE };
enum Event { WORK = 1, EXAMINE };

typedef struct {
    bool allowed, known; /* known: whether the service names the key */
    int reason;
    int64_t limit, remaining, reset, window;
    int64_t retry; /* -1: none */
    char name[MAX_NAME];
} Decision;

typedef struct Grant {
    struct Grant *next;
    char id[33];
    int64_t left, reserve, expires;
    Decision decision;
} Grant;

typedef struct {
    Decision decision;
    int64_t at, until;
} Denial;

/* Units for resources that begin with a prefix, or for one resource. */
typedef struct Pool {
    struct Pool *next;
    char resource[MAX_RESOURCE], prefix[MAX_RESOURCE];
    size_t resource_size, prefix_size;
    bool has_prefix, wants_more;
    Grant *held; /* the oldest, whose units are spent first */
    Denial denial;
    int64_t spent, denied, last, horizon, checked_until, seen, seen_at;
    double rate; /* calls a nanosecond */
    int64_t since, calls;
} Pool;

/* What was decided of one resource since the last report. */
typedef struct Line {
    struct Line *next;
    char resource[MAX_RESOURCE];
    size_t size;
    Pool *pool;
    int waiting;
    uint64_t allowed, denied;
    char limit[MAX_NAME];
} Line;

typedef struct Return {
    struct Return *next;
    char id[33];
    int64_t unused, ended;
    char *sent; /* its message: what it reports is counted once, so a repeat is the same */
    size_t sent_size;
    int lines; /* in its message */
} Return;

typedef struct Filter Filter;
typedef struct Flight Flight;
typedef struct Shard Shard;

typedef struct Key {
    struct Key *next, *next_active, *next_queued;
    Shard *shard;
    uint64_t hash;
    size_t size;
    char credential[MAX_CREDENTIAL];
    Pool *pools;
    int pool_count, line_count;
    Line *lines;
    Filter *first, *last; /* that wait */
    Flight *flight;
    Return *returns;
    int return_count;
    Denial denial;
    bool active, queued, known;
    enum Verdict away; /* by which calls are decided until away_until */
    int64_t called_at, silent_since, return_at, away_until;
} Key;

struct Shard {
    pthread_mutex_t lock;
    Key *bucket[BUCKETS], *active;
    int strangers;
};

typedef struct Flight {
    struct Flight *next;
    uint64_t id;
    Key *key;
    Pool *pool; /* NULL if it only returns */
    Return *returns;
    char grant_id[33];
    int64_t wants, began;
} Flight;

/* From its text: lines of a name and a value. */
typedef struct {
    void *envoy, *scheduler;
    char header[64], cluster[128], token[256], authority[128];
    bool fail_open;
    int64_t timeout_ms;
    uint64_t seed;
    Shard shard[SHARDS];
    atomic_int keys;
    pthread_mutex_t queue_lock;
    Key *queue;
    pthread_t ticker;
    atomic_bool ending, ticked;
    /* M */
    Flight *flights, *calling;
    int64_t round_trip, forgot;
    uint64_t numbers[2];
} Config;

struct Filter {
    Config *config;
    void *stream, *scheduler;
    Shard *shard; /* of what it waits or has waited for */
    Key *key;     /* while it waits */
    Filter *older, *newer;
    Line *line;
    Flight *sent;
    bool holds, starts; /* whether the request is held, and whether a call of its own is being started */
    enum Verdict verdict;
    Decision decision;
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- Protobuf ---- */

typedef struct {
    char *data;
    size_t size, room;
} Out;

static void put(Out *out, const void *data, size_t size) {
    if (out->size + size > out->room) {
        out->room = 2 * out->room + size + 256;
        out->data = realloc(out->data, out->room);
        if (out->data == NULL) {
            abort();
        }
    }
    if (size > 0) {
        memcpy(out->data + out->size, data, size);
        out->size += size;
    }
}

static void put_varint(Out *out, uint64_t value) {
    unsigned char bytes[10];
    size_t size = 0;
    do {
        bytes[size++] = (value & 0x7f) | (value > 0x7f ? 0x80 : 0);
    } while ((value >>= 7) != 0);
    put(out, bytes, size);
}

static void put_number(Out *out, int field, uint64_t value) {
    if (value != 0) {
        put_varint(out, field << 3);
        put_varint(out, value);
    }
}

static void put_bytes(Out *out, int field, const void *data, size_t size) {
    put_varint(out, field << 3 | 2);
    put_varint(out, size);
    put(out, data, size);
}

static void begin_message(Out *out) { put(out, "\0\0\0\0\0", 5); }

static void end_message(Out *out) {
    uint32_t size = __builtin_bswap32((uint32_t)(out->size - 5));
    memcpy(out->data + 1, &size, 4);
}

typedef struct {
    const unsigned char *at, *end;
} In;

static uint64_t read_varint(In *in) {
    uint64_t value = 0;
    for (int shift = 0; in->at < in->end && shift < 64; shift += 7) {
        unsigned char byte = *in->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    in->at = in->end;
    return 0;
}

/* The next field, and its number or bytes, 0 or none if it is of another type; 0 at the end, or where it cannot be read. */
static int next_field(In *in, uint64_t *number, In *bytes) {
    while (in->at < in->end) {
        uint64_t tag = read_varint(in);
        size_t size = 0;
        *number = 0;
        *bytes = (In){in->at, in->at};
        switch (tag & 7) {
        case 0:
            *number = read_varint(in);
            return (int)(tag >> 3);
        case 1:
        case 5:
            size = (tag & 7) == 1 ? 8 : 4;
            break;
        case 2:
            size = read_varint(in);
            break;
        default:
            return 0;
        }
        if (size > (size_t)(in->end - in->at)) {
            return 0;
        }
        *bytes = (In){in->at, in->at + size};
        in->at += size;
        if ((tag & 7) == 2) {
            return (int)(tag >> 3);
        }
    }
    return 0;
}

static int64_t within(uint64_t number, int64_t limit) { return least(most((int64_t)number, 0), limit); }

static int64_t read_duration(In in) {
    uint64_t number;
    int64_t seconds = 0, nanos = 0;
    In bytes;
    for (int field; (field = next_field(&in, &number, &bytes)) != 0;) {
        switch (field) {
        case 1: seconds = within(number, MAX_WAIT / SECOND); break;
        case 2: nanos = within(number, SECOND - 1); break;
        }
    }
    return least(seconds * SECOND + nanos, MAX_WAIT);
}

static void read_name(In in, char *to) {
    size_t size = least(in.end - in.at, MAX_NAME - 1);
    memcpy(to, in.at, size);
    to[size] = 0;
}

static void read_decision(In in, Decision *to) {
    uint64_t number;
    In bytes, all = in;
    *to = (Decision){.retry = -1};
    for (int field; (field = next_field(&in, &number, &bytes)) != 0;) {
        switch (field) {
        case 1: to->allowed = number != 0; break;
        case 2: to->reason = (int)number; break;
        case 4: to->known = bytes.end > bytes.at; break;
        case 7: read_name(bytes, to->name); break;
        case 8: to->remaining = within(number, MAX_NUMBER); break;
        case 9: to->retry = read_duration(bytes); break;
        }
    }
    for (int field; (field = next_field(&all, &number, &bytes)) != 0;) {
        Decision one = {0};
        In part;
        if (field != 10) {
            continue;
        }
        while ((field = next_field(&bytes, &number, &part)) != 0) {
            switch (field) {
            case 1: read_name(part, one.name); break;
            case 2: one.limit = within(number, MAX_NUMBER); break;
            case 4: one.reset = read_duration(part); break;
            case 8: one.window = read_duration(part); break;
            }
        }
        if (strcmp(one.name, to->name) == 0) {
            to->limit = one.limit, to->reset = one.reset, to->window = one.window;
        }
    }
}

typedef struct {
    int64_t granted, ttl, ask_again_after;
    int per_call;
    bool has_decision, has_prefix, returns_made;
    Decision decision;
    In prefix;
} GrantResponse;

static void read_grant_response(In in, GrantResponse *to) {
    uint64_t number;
    In bytes;
    *to = (GrantResponse){.prefix = in};
    for (int field; (field = next_field(&in, &number, &bytes)) != 0;) {
        switch (field) {
        case 2: to->granted = within(number, MAX_UNITS); break;
        case 3: to->ttl = least(read_duration(bytes), MAX_TTL); break;
        case 4: to->ask_again_after = read_duration(bytes); break;
        case 5: to->per_call = (int)number; break;
        case 6: to->has_decision = true, read_decision(bytes, &to->decision); break;
        case 7: to->has_prefix = bytes.end - bytes.at <= MAX_RESOURCE, to->prefix = bytes; break;
        case 8: to->returns_made = number != 0; break;
        }
    }
}

/* The message of a response of gRPC, in *OUT, which is to be freed. Returns the code of gRPC. What a callout does not show is
 * trailers: an error that the service sends in those, after headers, is UNAVAILABLE here. */
static int read_response(int result, const Header *headers, size_t count, const Text *chunks, size_t chunk_count, Out *out) {
    bool is_ok = false;
    for (size_t i = 0; i < count; i++) {
        if (headers[i].name_size == 7 && memcmp(headers[i].name, ":status", 7) == 0) {
            is_ok = headers[i].value_size == 3 && memcmp(headers[i].value, "200", 3) == 0;
        } else if (headers[i].name_size == 11 && memcmp(headers[i].name, "grpc-status", 11) == 0) {
            int code = 0;
            for (size_t j = 0; j < headers[i].value_size && j < 3; j++) {
                code = 10 * code + headers[i].value[j] - '0';
            }
            if (code != 0) {
                return code;
            }
        }
    }
    for (size_t i = 0; i < chunk_count; i++) {
        put(out, chunks[i].data, chunks[i].size);
    }
    uint32_t size = 0;
    if (result != 0 || !is_ok || out->size < 5) {
        return UNAVAILABLE;
    }
    memcpy(&size, out->data + 1, 4);
    return out->data[0] == 0 && __builtin_bswap32(size) == out->size - 5 ? 0 : UNAVAILABLE;
}

/* Whether the service has failed. Any other error is to be fixed by somebody, and never lets a request pass: who finds out how to
 * cause one could pass all limits. */
static enum Verdict verdict_of(int code) {
    switch (code) {
    case CANCELLED:
    case UNKNOWN:
    case DEADLINE_EXCEEDED:
    case ABORTED:
    case INTERNAL:
    case UNAVAILABLE:
    case DATA_LOSS:
        return FAILED;
    default:
        return REFUSED;
    }
}

/* ---- Units. The lock of the shard is held. ---- */

static void make_id(Config *config, char *to) {
    uint64_t parts[2];
    for (int i = 0; i < 2; i++) { /* splitmix64: unique, not secret */
        uint64_t x = config->numbers[i] += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
        parts[i] = x ^ x >> 31;
    }
    snprintf(to, 33, "%016llx%016llx", (unsigned long long)parts[0], (unsigned long long)parts[1]);
}

static bool covers(const Pool *pool, const char *resource, size_t size) {
    if (pool->has_prefix) {
        return size >= pool->prefix_size && memcmp(resource, pool->prefix, pool->prefix_size) == 0;
    }
    return size == pool->resource_size && memcmp(resource, pool->resource, size) == 0;
}

static void activate(Key *key) {
    if (!key->active) {
        key->active = true;
        key->next_active = key->shard->active;
        key->shard->active = key;
    }
}

static void know(Key *key) {
    key->shard->strangers -= !key->known;
    key->known = true;
}

static void give_back(Key *key, const char *id, int64_t unused, int64_t at) {
    Return *one = calloc(1, sizeof *one), **to = &key->returns;
    if (one == NULL) {
        return;
    }
    memcpy(one->id, id, sizeof one->id);
    one->unused = unused;
    one->ended = at;
    while (*to != NULL) {
        to = &(*to)->next;
    }
    *to = one;
    if (++key->return_count > MAX_RETURNS) {
        Return *oldest = key->returns;
        key->returns = oldest->next;
        key->return_count--;
        free(oldest->sent);
        free(oldest);
    }
    activate(key);
}

static void end_oldest(Key *key, Pool *pool, int64_t at) {
    Grant *held = pool->held;
    pool->held = held->next;
    if (held->left > 0) {
        give_back(key, held->id, held->left, at);
    }
    free(held);
}

static void release_pool(Key *key, Pool *pool, int64_t at) {
    while (pool->held != NULL) {
        end_oldest(key, pool, at);
    }
    pool->wants_more = false;
}

static void expire(Key *key, int64_t at) {
    for (Pool *pool = key->pools; pool != NULL; pool = pool->next) {
        while (pool->held != NULL && (at >= pool->held->expires || pool->held->left <= 0)) {
            end_oldest(key, pool, at);
        }
    }
}

static bool is_empty(const Key *key) {
    for (Pool *pool = key->pools; pool != NULL; pool = pool->next) {
        if (pool->held != NULL) {
            return false;
        }
    }
    return true;
}

static int64_t left_in(const Pool *pool) {
    int64_t left = 0;
    for (Grant *grant = pool->held; grant != NULL; grant = grant->next) {
        left += grant->left;
    }
    return left;
}

static Pool *pool_for(Key *key, const char *resource, size_t size) {
    for (Pool *pool = key->pools; pool != NULL; pool = pool->next) {
        if (covers(pool, resource, size)) {
            return pool;
        }
    }
    Pool *more = key->pool_count < MAX_POOLS ? calloc(1, sizeof *more) : NULL;
    if (more != NULL) {
        memcpy(more->resource, resource, more->resource_size = size);
        more->next = key->pools;
        key->pools = more;
        key->pool_count++;
    }
    return more;
}

static Line *line_of(Key *key, Text resource) {
    Line *line = NULL;
    for (Line *one = key->lines; one != NULL; one = one->next) {
        if (one->size == resource.size && memcmp(one->resource, resource.data, resource.size) == 0) {
            return one;
        }
        if (one->allowed == 0 && one->denied == 0 && one->waiting == 0) {
            line = one;
        }
    }
    bool is_more = key->line_count < MAX_LINES;
    Pool *pool = is_more || line != NULL ? pool_for(key, resource.data, resource.size) : NULL;
    if (pool == NULL || (is_more && (line = calloc(1, sizeof *line)) == NULL)) {
        return NULL;
    }
    if (is_more) {
        line->next = key->lines;
        key->lines = line;
        key->line_count++;
    }
    *line = (Line){.next = line->next, .size = resource.size, .pool = pool};
    memcpy(line->resource, resource.data, resource.size);
    return line;
}

/* Units of a pool are good for what begins with this prefix. What is held by another is returned, and no pool without lines is kept. */
static void cover(Key *key, Pool *asked, bool has_prefix, In prefix, int64_t at) {
    size_t size = has_prefix ? (size_t)(prefix.end - prefix.at) : 0;
    if (asked->has_prefix == has_prefix && asked->prefix_size == size && memcmp(asked->prefix, prefix.at, size) == 0) {
        return;
    }
    release_pool(key, asked, at);
    asked->has_prefix = has_prefix;
    memcpy(asked->prefix, prefix.at, asked->prefix_size = size);
    for (Line *line = key->lines; line != NULL; line = line->next) {
        if (covers(asked, line->resource, line->size)) {
            line->pool = asked;
        } else if (line->pool == asked) {
            line->pool = pool_for(key, line->resource, line->size);
        }
    }
    for (Pool **at_pool = &key->pools; *at_pool != NULL;) {
        Pool *pool = *at_pool;
        bool used = pool == asked;
        for (Line *line = key->lines; line != NULL; line = line->next) {
            used |= line->pool == pool;
        }
        if (used) {
            at_pool = &pool->next;
            continue;
        }
        release_pool(key, pool, at);
        *at_pool = pool->next;
        key->pool_count--;
        free(pool);
    }
}

static void count_denial(Key *key, Line *line, const Decision *by) {
    activate(key); /* it is to be reported */
    line->denied++;
    line->pool->denied++;
    memcpy(line->limit, by->name, sizeof line->limit);
}

/* Decide a call by a unit, or by a denial that is known. */
static enum Verdict decide(Key *key, Line *line, int64_t at, Decision *to) {
    Pool *pool = line->pool;
    if (pool == NULL) {
        return ALONE;
    }
    while (pool->held != NULL) {
        Grant *held = pool->held;
        if (at < held->expires && held->left > 0) {
            held->left--;
            pool->spent++;
            line->allowed++;
            pool->wants_more |= held->left == held->reserve && held->next == NULL;
            *to = held->decision; /* `remaining` as of the grant: a value that stays costs a connection less than one that changes */
            return ALLOWED;
        }
        end_oldest(key, pool, at);
    }
    const Denial *denials[] = {&key->denial, &pool->denial};
    for (int i = 0; i < 2; i++) {
        if (at < denials[i]->until) {
            *to = denials[i]->decision;
            to->retry = to->retry < 0 ? -1 : most(0, to->retry - (at - denials[i]->at));
            count_denial(key, line, to);
            return DENIED;
        }
    }
    return at < pool->checked_until ? ALONE : NONE;
}

static void need(Config *config, Key *key) {
    if (key->flight != NULL || key->queued) {
        return;
    }
    key->queued = true;
    pthread_mutex_lock(&config->queue_lock);
    bool is_first = config->queue == NULL;
    key->next_queued = config->queue;
    config->queue = key;
    pthread_mutex_unlock(&config->queue_lock);
    if (is_first) {
        ENVOY(filter_config_scheduler_commit)(config->scheduler, WORK);
    }
}

static void detach(Filter *filter) {
    Key *key = filter->key;
    *(filter->older != NULL ? &filter->older->newer : &key->first) = filter->newer;
    *(filter->newer != NULL ? &filter->newer->older : &key->last) = filter->older;
    filter->line->waiting--;
    filter->key = NULL;
}

static void resolve(Filter *filter, enum Verdict verdict) {
    filter->verdict = verdict;
    detach(filter);
    ENVOY(filter_scheduler_commit)(filter->scheduler, WORK);
}

/* ---- M ---- */

/* Units to ask for: calls that wait, and those that come within the horizon. Demand rises at once, and falls by the part of
 * the horizon that has passed. */
static int64_t wanted(Pool *pool, int64_t at, int64_t waiting) {
    int64_t calls = pool->spent + pool->denied + waiting;
    if (pool->calls > 0 && pool->horizon > 0) {
        double elapsed = (double)most(at - pool->since, MS);
        double more = (double)most(calls - pool->calls, 0) / elapsed - pool->rate;
        if (more < 0 && elapsed < (double)pool->horizon) {
            more *= elapsed / (double)pool->horizon;
        }
        pool->rate += more;
    }
    pool->since = at;
    pool->calls = calls;
    double expected = pool->rate * (double)pool->horizon;
    int64_t units = least(expected > MAX_UNITS ? MAX_UNITS : (int64_t)(expected + 0.5), 4 * pool->last);
    return least(most(units + waiting, 1), MAX_UNITS);
}

/* Returns how many lines there are. */
static int put_spent(Out *out, Key *key) {
    int count = 0;
    for (Line *line = key->lines; line != NULL; line = line->next) {
        if (line->allowed + line->denied == 0) {
            continue;
        }
        Out one = {0};
        put_bytes(&one, 1, line->resource, line->size);
        put_number(&one, 2, line->allowed);
        put_number(&one, 3, line->denied);
        put_number(&one, 4, line->allowed);
        if (line->denied > 0) {
            put_bytes(&one, 5, line->limit, strlen(line->limit));
        }
        put_bytes(out, 3, one.data, one.size);
        free(one.data);
        line->allowed = line->denied = 0;
        count++;
    }
    return count;
}

static bool has_spent(const Key *key) {
    for (Line *line = key->lines; line != NULL; line = line->next) {
        if (line->allowed + line->denied > 0) {
            return true;
        }
    }
    return false;
}

/* Units, or a report that has failed. */
static bool has_returns(const Key *key) {
    for (Return *one = key->returns; one != NULL; one = one->next) {
        if (one->unused > 0 || one->sent != NULL) {
            return true;
        }
    }
    return false;
}

/* A request for units of a pool, with all returns; NULL if none is due. */
static Flight *next_request(Config *config, Key *key, int64_t at, Out *out) {
    Pool *pool = key->first != NULL ? key->first->line->pool : NULL;
    for (Pool *one = key->pools; one != NULL && pool == NULL; one = one->next) {
        pool = one->wants_more ? one : NULL;
    }
    bool reports = at - key->silent_since >= REPORT && has_spent(key);
    if (key->flight != NULL || (pool == NULL && !(is_empty(key) && at >= key->return_at && (reports || has_returns(key))))) {
        return NULL;
    }
    Flight *flight = calloc(1, sizeof *flight);
    if (flight == NULL) {
        return NULL;
    }
    *flight = (Flight){.key = key, .pool = pool, .began = at};
    int room = MAX_REPORTED;
    Return *fresh = NULL;
    for (Return *one = key->returns; one != NULL; one = one->next) {
        fresh = fresh == NULL && one->sent == NULL ? one : fresh;
        room -= one->lines;
    }
    bool reported = !has_spent(key) || room < MAX_LINES;
    if (!reported && fresh == NULL && key->return_count < MAX_RETURNS) {
        char id[33];
        make_id(config, id); /* none that the service knows: it only reports */
        give_back(key, id, 0, at);
    }
    begin_message(out);
    if (pool != NULL) {
        int64_t waiting = 0;
        for (Filter *one = key->first; one != NULL; one = one->newer) {
            waiting += one->line->pool == pool;
            one->sent = flight;
        }
        pool->wants_more = false;
        make_id(config, flight->grant_id);
        flight->wants = wanted(pool, at, waiting);
        put_bytes(out, 1, flight->grant_id, 32);
        put_bytes(out, 4, pool->resource, pool->resource_size);
        put_number(out, 6, flight->wants);
    }
    put_bytes(out, 2, key->credential, key->size);
    for (Return *one; (one = key->returns) != NULL;) {
        key->returns = one->next;
        if (one->ended + TOO_OLD < at || (one->sent == NULL && one->unused == 0 && reported)) {
            free(one->sent);
            free(one);
            continue;
        }
        if (one->sent == NULL) {
            Out message = {0};
            put_bytes(&message, 1, one->id, 32);
            put_number(&message, 2, one->unused);
            if (!reported) {
                one->lines = put_spent(&message, key);
                reported = true;
            }
            one->sent = message.data;
            one->sent_size = message.size;
        }
        put_bytes(out, 7, one->sent, one->sent_size);
        one->next = flight->returns;
        flight->returns = one;
    }
    key->return_count = 0;
    key->silent_since = at;
    key->flight = flight;
    end_message(out);
    return flight;
}

static void forget_returns(Flight *flight) {
    for (Return *one; (one = flight->returns) != NULL;) {
        flight->returns = one->next;
        free(one->sent);
        free(one);
    }
}

static void postpone(Key *key, Flight *flight, int64_t at) {
    for (Return *one; (one = flight->returns) != NULL && key->return_count < MAX_RETURNS;) {
        flight->returns = one->next;
        one->next = key->returns;
        key->returns = one;
        key->return_count++;
        key->return_at = at + SECOND;
    }
    activate(key);
}

/* The time in which the binding limit gains a token. */
static int64_t until_one(const Decision *decision) {
    int64_t gains = decision->limit > 0 ? decision->window / decision->limit : MS;
    return least(most(gains, MS), most(decision->reset, MS));
}

static void add(Config *config, Flight *flight, const GrantResponse *response, int64_t at) {
    Key *key = flight->key;
    Pool *pool = flight->pool;
    cover(key, pool, response->has_prefix, response->prefix, at);
    Grant *grant = calloc(1, sizeof *grant), **to = &pool->held;
    if (grant == NULL) {
        return;
    }
    *grant = (Grant){.left = response->granted, .reserve = -1, .expires = flight->began + response->ttl};
    grant->decision = response->decision;
    memcpy(grant->id, flight->grant_id, sizeof grant->id);
    int64_t missing = flight->wants - response->granted;
    bool is_short = missing > 0 && response->decision.remaining < missing;
    pool->horizon = response->ttl / 2;
    pool->last = response->granted;
    if (!is_short) {
        double reserve = pool->rate * (double)most(pool->horizon / 4, 3 * config->round_trip);
        int64_t units = least((int64_t)(reserve > MAX_UNITS ? MAX_UNITS : reserve), response->granted / 2);
        grant->reserve = units > 0 ? units : -1;
    }
    key->denial.until = pool->denial.until = pool->checked_until = 0;
    pool->wants_more = false;
    pool->seen = pool->spent;
    pool->seen_at = at;
    while (*to != NULL) {
        to = &(*to)->next;
    }
    *to = grant;
    activate(key);
    if (grant->expires <= at) {
        pool->checked_until = at + SECOND;
    }
    if (!is_short) {
        return;
    }
    Denial denied = {response->decision, at, at};
    denied.decision.allowed = false;
    denied.decision.reason = OVER_LIMIT;
    denied.decision.retry = until_one(&response->decision);
    int64_t remaining = most(response->decision.remaining, 0), room = left_in(pool) + remaining;
    for (Filter *one = key->first, *next; one != NULL; one = next) {
        next = one->newer;
        if (one->sent == flight && one->line->pool == pool && --room < 0) {
            one->decision = denied.decision;
            count_denial(key, one->line, &one->decision);
            resolve(one, DENIED);
        }
    }
    if (remaining == 0) {
        denied.until = at + least(denied.decision.retry, MAX_DENIAL);
        pool->denial = denied;
    }
}

static void answered(Config *config, Flight *flight, const GrantResponse *response, int64_t at) {
    Key *key = flight->key;
    Pool *pool = flight->pool;
    if (!response->returns_made) {
        postpone(key, flight, at);
    }
    if (response->decision.known) {
        know(key);
    }
    if (pool == NULL) {
        return;
    }
    config->round_trip += (at - flight->began - config->round_trip) / 8;
    if (response->granted > 0 && response->has_decision) {
        add(config, flight, response, at);
    } else if (response->per_call != 0) {
        pool->checked_until = at + response->ask_again_after;
        if (response->per_call == STORE_UNAVAILABLE) {
            give_back(key, flight->grant_id, flight->wants, at);
            key->return_at = at + SECOND;
        }
    } else if (response->has_decision) {
        Denial denied = {response->decision, at, at + least(response->ask_again_after, MAX_DENIAL)};
        if (denied.decision.reason >= KEY_UNKNOWN && denied.decision.reason <= KEY_EXPIRED) {
            for (Pool *one = key->pools; one != NULL; one = one->next) {
                release_pool(key, one, at);
            }
            key->denial = denied;
        } else {
            pool->denial = denied;
        }
    } else {
        pool->checked_until = at + MARGIN; /* the id was used before */
    }
}

static void failed(Flight *flight, int code, int64_t at) {
    Key *key = flight->key;
    if (code != INVALID_ARGUMENT) { /* which may be for a return: none of them is sent again */
        postpone(key, flight, at);
    }
    if (code == INVALID_ARGUMENT || code == UNIMPLEMENTED) {
        for (Pool *one = key->pools; one != NULL; one = one->next) {
            one->checked_until = code == UNIMPLEMENTED || one == flight->pool ? at + FORGET : one->checked_until;
        }
        return;
    }
    key->away = verdict_of(code);
    key->away_until = at + AWAY;
    if (flight->pool == NULL) {
        return;
    }
    if (key->away == FAILED) { /* it may have been granted */
        give_back(key, flight->grant_id, flight->wants, at);
        key->return_at = at + SECOND;
    }
    for (Filter *one = key->first, *next; one != NULL; one = next) {
        next = one->newer;
        if (one->sent == flight) {
            resolve(one, key->away);
        }
    }
}

static void serve(Config *config, Key *key, int64_t at) {
    for (Filter *one = key->first, *next; one != NULL; one = next) {
        next = one->newer;
        enum Verdict verdict = decide(key, one->line, at, &one->decision);
        if (verdict != NONE) {
            resolve(one, verdict);
        }
    }
    for (Pool *pool = key->pools; pool != NULL; pool = pool->next) {
        if (pool->seen_at == at) {
            pool->seen = pool->spent;
        }
    }
    if (key->first != NULL) {
        need(config, key);
    }
}

static void land(Config *config, Flight *flight, int code, const Out *body) {
    Key *key = flight->key;
    for (Flight **at = &config->flights; *at != NULL; at = &(*at)->next) {
        if (*at == flight) {
            *at = flight->next;
            break;
        }
    }
    if (config->calling == flight) {
        config->calling = NULL;
    }
    pthread_mutex_lock(&key->shard->lock);
    int64_t at = now();
    key->flight = NULL;
    if (code == 0) {
        GrantResponse response;
        read_grant_response((In){(unsigned char *)body->data + 5, (unsigned char *)body->data + body->size}, &response);
        answered(config, flight, &response, at);
    } else {
        failed(flight, code, at);
    }
    serve(config, key, at);
    pthread_mutex_unlock(&key->shard->lock);
    forget_returns(flight);
    free(flight);
}

/* Headers of a call of METHOD. */
static size_t call_headers(const Config *config, Text method, Header *to) {
    Text authority = {config->authority, strlen(config->authority)}, token = {config->token, strlen(config->token)};
    Header headers[] = {
        HEADER(":method", TEXT("POST")),
        HEADER(":path", method),
        HEADER(":authority", authority),
        HEADER("content-type", TEXT("application/grpc")),
        HEADER("te", TEXT("trailers")),
        HEADER("authorization", token),
    };
    memcpy(to, headers, sizeof headers);
    return sizeof headers / sizeof *headers - (token.size == 0);
}

/* Send what is due for a key, if something is. */
static void send_next(Config *config, Key *key) {
    Out out = {0};
    pthread_mutex_lock(&key->shard->lock);
    int64_t at = now();
    key->queued = false;
    expire(key, at);
    Flight *flight = next_request(config, key, at, &out);
    pthread_mutex_unlock(&key->shard->lock);
    if (flight != NULL) {
        Header headers[6];
        size_t count = call_headers(config, TEXT("/ratelimit.v1.RateLimitService/Grant"), headers);
        flight->next = config->flights;
        config->flights = config->calling = flight;
        int result = ENVOY(filter_config_http_callout)(
            config->envoy, &flight->id, (Text){config->cluster, strlen(config->cluster)}, headers, count,
            (Text){out.data, out.size}, config->timeout_ms);
        if (result != 0 && config->calling == flight) {
            land(config, flight, UNAVAILABLE, NULL);
        }
        config->calling = NULL;
    }
    free(out.data);
}

static bool is_due(Config *config, Key *key, int64_t at) {
    bool due = false;
    expire(key, at);
    for (Pool *pool = key->pools; pool != NULL; pool = pool->next) {
        if (pool->held == NULL) {
            continue;
        }
        double expected = pool->rate * 4 * (double)pool->horizon;
        int64_t gap = expected <= 1 ? 4 * pool->horizon / 8 : (int64_t)(1 / pool->rate);
        if (pool->seen_at + most(10 * MS, most(pool->horizon / 4, 8 * gap)) <= at) {
            if (pool->seen == pool->spent) {
                release_pool(key, pool, at);
                continue;
            }
            pool->seen = pool->spent;
            pool->seen_at = at;
        }
        bool ends = pool->held->next == NULL && pool->held->expires - 2 * config->round_trip - MARGIN - TICK <= at;
        pool->wants_more |= ends && pool->rate * (double)pool->horizon >= 4 && pool->spent > pool->seen;
        due |= pool->wants_more;
    }
    bool reports = at - key->silent_since >= REPORT && has_spent(key);
    return due || (is_empty(key) && at >= key->return_at && (reports || has_returns(key)));
}

static void free_key(Key *key) {
    for (Pool *pool; (pool = key->pools) != NULL; free(pool)) {
        key->pools = pool->next;
        for (Grant *grant; (grant = pool->held) != NULL; free(grant)) {
            pool->held = grant->next;
        }
    }
    for (Return *one; (one = key->returns) != NULL; free(one)) {
        key->returns = one->next;
        free(one->sent);
    }
    for (Line *line; (line = key->lines) != NULL; free(line)) {
        key->lines = line->next;
    }
    free(key);
}

static void forget_keys(Config *config, Shard *shard, int64_t at) {
    for (int i = 0; i < BUCKETS; i++) {
        for (Key **to = &shard->bucket[i]; *to != NULL;) {
            Key *key = *to;
            if (key->active || key->queued || key->flight != NULL || key->first != NULL || at - key->called_at < FORGET) {
                to = &key->next;
                continue;
            }
            *to = key->next;
            shard->strangers -= !key->known;
            free_key(key);
            atomic_fetch_sub(&config->keys, 1);
        }
    }
}

static void examine(Config *config) {
    int64_t at = now();
    bool forgets = at - config->forgot > SECOND;
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &config->shard[i];
        pthread_mutex_lock(&shard->lock);
        for (Key **to = &shard->active; *to != NULL;) {
            Key *key = *to;
            if (is_due(config, key, at)) {
                need(config, key);
            }
            if (is_empty(key) && key->returns == NULL && !has_spent(key)) {
                key->active = false;
                *to = key->next_active;
            } else {
                to = &key->next_active;
            }
        }
        if (forgets) {
            forget_keys(config, shard, at);
        }
        pthread_mutex_unlock(&shard->lock);
    }
    config->forgot = forgets ? at : config->forgot;
}

void envoy_dynamic_module_on_http_filter_config_scheduled(void *envoy, const void *module, uint64_t event) {
    (void)envoy;
    Config *config = (Config *)module;
    if (event == EXAMINE) {
        atomic_store(&config->ticked, false);
        examine(config);
        return;
    }
    pthread_mutex_lock(&config->queue_lock);
    Key *key = config->queue;
    config->queue = NULL;
    pthread_mutex_unlock(&config->queue_lock);
    while (key != NULL) {
        Key *next = key->next_queued;
        send_next(config, key);
        key = next;
    }
}

void envoy_dynamic_module_on_http_filter_config_http_callout_done(
    void *envoy, const void *module, uint64_t id, int result, Header *headers, size_t count, Text *chunks, size_t chunk_count) {
    (void)envoy;
    Config *config = (Config *)module;
    Flight *flight = config->flights;
    while (flight != NULL && flight->id != id) {
        flight = flight->next;
    }
    if (flight != NULL) {
        Out body = {0};
        int code = read_response(result, headers, count, chunks, chunk_count, &body);
        land(config, flight, code, &body);
        free(body.data);
    }
}

static void *tick(void *argument) {
    Config *config = argument;
    while (!atomic_load(&config->ending)) {
        nanosleep(&(struct timespec){.tv_nsec = TICK}, NULL);
        if (!atomic_exchange(&config->ticked, true)) {
            ENVOY(filter_config_scheduler_commit)(config->scheduler, EXAMINE);
        }
    }
    return NULL;
}

/* ---- Configuration ---- */

const char *envoy_dynamic_module_on_program_init(void) { return "v0.1.0"; }

static bool set(Config *config, const char *name, const char *value) {
    const struct {
        const char *name;
        char *to;
        size_t room;
    } texts[] = {
        {"header", config->header, sizeof config->header},
        {"cluster", config->cluster, sizeof config->cluster},
        {"authority", config->authority, sizeof config->authority},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strcmp(name, texts[i].name) == 0) {
            return strlen(value) > 0 && (size_t)snprintf(texts[i].to, texts[i].room, "%s", value) < texts[i].room;
        }
    }
    if (strcmp(name, "token") == 0) {
        return (size_t)snprintf(config->token, sizeof config->token, "Bearer %s", value) < sizeof config->token;
    }
    if (strcmp(name, "timeout_ms") == 0) {
        return (config->timeout_ms = atoi(value)) > 0;
    }
    if (strcmp(name, "on_failure") == 0) {
        config->fail_open = strcmp(value, "allow") == 0;
        return config->fail_open || strcmp(value, "deny") == 0;
    }
    return false;
}

const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, Text name, Text text) {
    (void)name;
    Config *config = calloc(1, sizeof *config);
    char *lines = strndup(text.data, text.size), *rest = lines, *line;
    bool is_right = config != NULL && lines != NULL;
    if (is_right) {
        strcpy(config->header, "x-api-key");
        strcpy(config->cluster, "ratelimit");
        strcpy(config->authority, "ratelimit");
        config->timeout_ms = 500;
    }
    while (is_right && (line = strsep(&rest, "\n")) != NULL) {
        char *value = strchr(line, ' ');
        if (*line != 0) {
            is_right = value != NULL && (*value = 0, set(config, line, value + 1));
        }
    }
    free(lines);
    const char *token = getenv("RATELIMIT_TOKEN");
    if (is_right && token != NULL && *token != 0 && *config->token == 0) {
        is_right = set(config, "token", token);
    }
    if (!is_right) {
        free(config);
        return NULL;
    }
    config->envoy = envoy;
    config->round_trip = MS;
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&config->shard[i].lock, NULL);
    }
    pthread_mutex_init(&config->queue_lock, NULL);
    if (getrandom(config->numbers, sizeof config->numbers, 0) < 0 || getrandom(&config->seed, sizeof config->seed, 0) < 0) {
        abort();
    }
    config->scheduler = ENVOY(filter_config_scheduler_new)(envoy);
    if (pthread_create(&config->ticker, NULL, tick, config) != 0) {
        abort();
    }
    return config;
}

/* Units that are held are lost to their limits until they would have drained: nothing can be sent from here any more. */
void envoy_dynamic_module_on_http_filter_config_destroy(const void *module) {
    Config *config = (Config *)module;
    atomic_store(&config->ending, true);
    pthread_join(config->ticker, NULL);
    ENVOY(filter_config_scheduler_delete)(config->scheduler);
    for (int i = 0; i < SHARDS * BUCKETS; i++) {
        for (Key *key; (key = config->shard[i / BUCKETS].bucket[i % BUCKETS]) != NULL;) {
            config->shard[i / BUCKETS].bucket[i % BUCKETS] = key->next;
            free_key(key);
        }
    }
    for (Flight *flight; (flight = config->flights) != NULL; free(flight)) {
        config->flights = flight->next;
        forget_returns(flight);
    }
    free(config);
}

/* ---- W ---- */

const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream) {
    Filter *filter = calloc(1, sizeof *filter);
    if (filter != NULL) {
        filter->config = (Config *)config;
        filter->stream = stream;
    }
    return filter;
}

static void stop_waiting(Filter *filter) {
    if (filter->shard != NULL) {
        pthread_mutex_lock(&filter->shard->lock);
        if (filter->key != NULL) {
            detach(filter);
        }
        pthread_mutex_unlock(&filter->shard->lock);
    }
}

void envoy_dynamic_module_on_http_filter_stream_complete(void *stream, const void *module) {
    (void)stream;
    stop_waiting((Filter *)module);
}

void envoy_dynamic_module_on_http_filter_destroy(const void *module) {
    Filter *filter = (Filter *)module;
    stop_waiting(filter);
    if (filter->scheduler != NULL) {
        ENVOY(filter_scheduler_delete)(filter->scheduler);
    }
    free(filter);
}

static void respond(Filter *filter, uint32_t status, const char *body, int64_t retry) {
    const Decision *decision = &filter->decision;
    char numbers[4][24];
    Header headers[6] = {HEADER("content-type", TEXT("text/plain")), HEADER("www-authenticate", TEXT("ApiKey"))};
    const struct {
        Text name;
        int64_t value;
    } all[] = {
        {TEXT("retry-after"), (retry + SECOND - 1) / SECOND},
        {TEXT("x-ratelimit-limit"), decision->limit},
        {TEXT("x-ratelimit-remaining"), most(decision->remaining, 0)},
        {TEXT("x-ratelimit-reset"), ((retry < 0 ? decision->reset : retry) + SECOND - 1) / SECOND}, /* until it denies no more */
    };
    size_t count = status == 401 ? 2 : 1;
    for (int i = retry < 0 ? 1 : 0; i < (decision->limit > 0 ? 4 : 1); i++) {
        int size = snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)all[i].value);
        headers[count++] = (Header){all[i].name.data, all[i].name.size, numbers[i], size};
    }
    filter->verdict = DENIED; /* no more headers */
    ENVOY(send_response)(filter->stream, status, headers, count, (Text){body, strlen(body)}, TEXT("ratelimit_grants"));
}

static void respond_denied(Filter *filter) {
    switch (filter->decision.reason) { /* as the authorization protocol of the service */
    case KEY_UNKNOWN:
    case KEY_REVOKED:
    case KEY_EXPIRED:
        respond(filter, 401, "The API key is not valid.\n", -1);
        return;
    case KEY_SUSPENDED:
        respond(filter, 403, "The API key is suspended.\n", -1);
        return;
    case DEGRADED_DENIED:
        respond(filter, 503, "The limit is not known now.\n", filter->decision.retry);
        return;
    default:
        respond(filter, 429, "Too many requests.\n", filter->decision.retry);
    }
}

static int apply(Filter *filter);

/* Have the service check this request alone. */
static int check_alone(Filter *filter, Text credential, Text resource) {
    Config *config = filter->config;
    Header headers[6];
    Out out = {0};
    uint64_t id = 0;
    begin_message(&out);
    put_bytes(&out, 1, credential.data, credential.size);
    put_bytes(&out, 3, resource.data, resource.size);
    end_message(&out);
    size_t count = call_headers(config, TEXT("/ratelimit.v1.RateLimitService/CheckLimit"), headers);
    filter->starts = true;
    filter->verdict = NONE;
    int result = ENVOY(filter_http_callout)(
        filter->stream, &id, (Text){config->cluster, strlen(config->cluster)}, headers, count, (Text){out.data, out.size},
        config->timeout_ms);
    free(out.data);
    filter->starts = false;
    if (result == 0 && filter->verdict == NONE) {
        filter->holds = true;
        return STOP;
    }
    filter->verdict = filter->verdict == NONE ? FAILED : filter->verdict;
    return apply(filter);
}

/* Returns whether the request has one key, and which resource it is for. */
static bool read_request(Filter *filter, Text *credential, Text *resource) {
    Config *config = filter->config;
    size_t count = 0;
    if (!ENVOY(get_header)(filter->stream, REQUEST_HEADERS, TEXT(":path"), resource, 0, NULL)) {
        *resource = TEXT("/");
    }
    const char *query = memchr(resource->data, '?', resource->size);
    resource->size = least(query != NULL ? (size_t)(query - resource->data) : resource->size, MAX_RESOURCE);
    Text name = {config->header, strlen(config->header)};
    bool found = ENVOY(get_header)(filter->stream, REQUEST_HEADERS, name, credential, 0, &count);
    return found && count == 1 && credential->size > 0 && credential->size <= MAX_CREDENTIAL;
}

/* Whether the service takes it as a string: one that it refuses would otherwise pass where failures do. */
static bool is_plain(Text text) {
    for (size_t i = 0; i < text.size; i++) {
        if ((unsigned char)text.data[i] < 0x20 || (unsigned char)text.data[i] > 0x7e) {
            return false;
        }
    }
    return true;
}

/* Do what was decided, and return how the headers go on, unless the request is held: then it is let go here. */
static int apply(Filter *filter) {
    bool held = filter->holds;
    Text credential, resource;
    switch (filter->verdict) {
    case DENIED:
        respond_denied(filter);
        return STOP;
    case ALONE:
        if (read_request(filter, &credential, &resource)) {
            return check_alone(filter, credential, resource);
        }
        respond(filter, 401, "An API key is missing.\n", -1);
        return STOP;
    case FAILED:
    case REFUSED:
        filter->decision.limit = 0;
        if (filter->verdict == REFUSED || !filter->config->fail_open) {
            respond(filter, 503, "The limit is not known now.\n", -1);
            return STOP;
        }
        break;
    default:
        break;
    }
    filter->holds = false;
    if (held) {
        ENVOY(filter_continue_decoding)(filter->stream);
    }
    return CONTINUE;
}

static uint64_t hash_of(const Config *config, Text text) {
    uint64_t hash = config->seed;
    for (size_t i = 0; i < text.size; i++) {
        hash = (hash ^ (unsigned char)text.data[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 29;
}

static Key *find(Shard *shard, uint64_t hash, Text credential) {
    Key *key = shard->bucket[hash / SHARDS % BUCKETS];
    while (key != NULL && !(key->hash == hash && key->size == credential.size && memcmp(key->credential, credential.data, credential.size) == 0)) {
        key = key->next;
    }
    return key;
}

/* Keep a key that is not kept yet; NULL if there are too many. */
static Key *keep(Config *config, Shard *shard, uint64_t hash, Text credential, bool known, int64_t at) {
    bool has_room = atomic_load(&config->keys) < MAX_KEYS && (known || shard->strangers < MAX_STRANGERS);
    Key **bucket = &shard->bucket[hash / SHARDS % BUCKETS], *key = has_room ? calloc(1, sizeof *key) : NULL;
    if (key != NULL) {
        key->shard = shard;
        key->hash = hash;
        key->known = known;
        key->called_at = key->silent_since = at;
        memcpy(key->credential, credential.data, key->size = credential.size);
        key->next = *bucket;
        *bucket = key;
        shard->strangers += !known;
        atomic_fetch_add(&config->keys, 1);
    }
    return key;
}

/* The service has named the key of a request: there is room for it, whoever makes up others. */
static void keep_known(Filter *filter) {
    Text credential, resource;
    if (!read_request(filter, &credential, &resource)) {
        return;
    }
    uint64_t hash = hash_of(filter->config, credential);
    Shard *shard = &filter->config->shard[hash % SHARDS];
    pthread_mutex_lock(&shard->lock);
    Key *key = find(shard, hash, credential);
    if (key != NULL) {
        know(key);
    } else {
        keep(filter->config, shard, hash, credential, true, now());
    }
    pthread_mutex_unlock(&shard->lock);
}

static enum Verdict begin(Filter *filter, Text credential, Text resource) {
    Config *config = filter->config;
    uint64_t hash = hash_of(config, credential);
    Shard *shard = &config->shard[hash % SHARDS];
    pthread_mutex_lock(&shard->lock);
    int64_t at = now();
    Key *key = find(shard, hash, credential);
    enum Verdict verdict = ALONE;
    Line *line = NULL;
    if (key == NULL) {
        keep(config, shard, hash, credential, false, at);
    } else {
        bool was_quiet = at - key->called_at > QUIET && is_empty(key);
        key->called_at = at;
        line = was_quiet ? NULL : line_of(key, resource);
    }
    if (line != NULL) {
        verdict = decide(key, line, at, &filter->decision);
        if (line->pool != NULL && line->pool->wants_more) {
            need(config, key);
        }
    }
    if (verdict == NONE && at < key->away_until) {
        verdict = key->away;
    }
    if (verdict == NONE) {
        if (filter->scheduler == NULL) {
            filter->scheduler = ENVOY(filter_scheduler_new)(filter->stream);
        }
        filter->shard = shard;
        filter->key = key;
        filter->line = line;
        line->waiting++;
        filter->older = key->last;
        *(key->last != NULL ? &key->last->newer : &key->first) = filter;
        key->last = filter;
        filter->holds = true;
        need(config, key);
    }
    pthread_mutex_unlock(&shard->lock);
    return verdict;
}

int envoy_dynamic_module_on_http_filter_request_headers(void *stream, const void *module, bool end) {
    (void)stream, (void)end;
    Filter *filter = (Filter *)module;
    Text credential, resource;
    if (!read_request(filter, &credential, &resource)) {
        respond(filter, 401, "An API key is missing.\n", -1);
        return STOP;
    }
    if (!is_plain(credential) || !is_plain(resource)) {
        respond(filter, 400, "The API key and the path are ASCII.\n", -1);
        return STOP;
    }
    enum Verdict verdict = begin(filter, credential, resource);
    if (verdict == NONE) {
        return STOP;
    }
    filter->verdict = verdict;
    return apply(filter);
}

int envoy_dynamic_module_on_http_filter_request_body(void *stream, const void *module, bool end) {
    (void)stream, (void)end;
    return ((Filter *)module)->holds ? STOP_AND_WATERMARK : CONTINUE;
}

int envoy_dynamic_module_on_http_filter_request_trailers(void *stream, const void *module) {
    (void)stream;
    return ((Filter *)module)->holds ? STOP : CONTINUE;
}

void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *module, uint64_t event) {
    (void)stream, (void)event;
    apply((Filter *)module);
}

void envoy_dynamic_module_on_http_filter_http_callout_done(
    void *stream, const void *module, uint64_t id, int result, Header *headers, size_t count, Text *chunks, size_t chunk_count) {
    (void)stream, (void)id;
    Filter *filter = (Filter *)module;
    Out body = {0};
    int code = read_response(result, headers, count, chunks, chunk_count, &body);
    filter->verdict = verdict_of(code);
    if (code == 0) {
        read_decision((In){(unsigned char *)body.data + 5, (unsigned char *)body.data + body.size}, &filter->decision);
        filter->verdict = filter->decision.allowed ? ALLOWED : DENIED;
        if (filter->decision.known) {
            keep_known(filter);
        }
    }
    free(body.data);
    if (!filter->starts) {
        apply(filter);
    }
}

static void add_number(void *stream, Text name, int64_t value) {
    char digits[24];
    char *at = digits + sizeof digits;
    uint64_t rest = (uint64_t)most(value, 0);
    do {
        *--at = (char)('0' + rest % 10);
    } while ((rest /= 10) != 0);
    ENVOY(add_header)(stream, RESPONSE_HEADERS, name, (Text){at, digits + sizeof digits - at});
}

int envoy_dynamic_module_on_http_filter_response_headers(void *stream, const void *module, bool end) {
    (void)end;
    const Filter *filter = module;
    const Decision *decision = &filter->decision;
    if (filter->holds) { /* Envoy itself responds, as by a timeout: M may just decide */
        return CONTINUE;
    }
    if (filter->verdict == ALLOWED && decision->limit > 0) {
        add_number(stream, TEXT("x-ratelimit-limit"), decision->limit);
        add_number(stream, TEXT("x-ratelimit-remaining"), decision->remaining);
        add_number(stream, TEXT("x-ratelimit-reset"), (decision->reset + SECOND - 1) / SECOND);
    }
    return CONTINUE;
}

int envoy_dynamic_module_on_http_filter_response_body(void *stream, const void *module, bool end) {
    (void)stream, (void)module, (void)end;
    return CONTINUE;
}

int envoy_dynamic_module_on_http_filter_response_trailers(void *stream, const void *module) {
    (void)stream, (void)module;
    return CONTINUE;
}

/* What Envoy asks for by name, and never calls here. */
#define UNUSED(name) void envoy_dynamic_module_on_http_filter_##name(void) {}
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
UNUSED(downstream_above_write_buffer_high_watermark)
UNUSED(downstream_below_write_buffer_low_watermark)
UNUSED(config_http_stream_headers)
UNUSED(config_http_stream_data)
UNUSED(config_http_stream_trailers)
UNUSED(config_http_stream_complete)
UNUSED(config_http_stream_reset)
