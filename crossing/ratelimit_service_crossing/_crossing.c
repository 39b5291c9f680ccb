/* Calls of one message, from Envoy's worker thread to an event loop in the same process, and their responses back.
 *
 * This file is two things, which share its variables: a filter of Envoy (a dynamic module, functions
 * `envoy_dynamic_module_on_*`) and a module of Python. Envoy opens it first; Python, which another filter embeds in
 * the same process, imports it from the same path, and so gets the same copy.
 *
 * The filter holds a call until its message is whole. Then the call joins a queue, and a byte in an eventfd wakes the
 * event loop unless the queue had calls already: nothing here waits for Python's lock. `take` removes all that wait. A
 * response goes back by the scheduler that Envoy has for each stream.
 *
 * The filter passes on whatever is not a plain gRPC call of a known path with one uncompressed message, before it has
 * taken it: filters after it serve that, or say what is wrong with it.
 *
 * A response that holds for some milliseconds can be kept: until then the filter gives it to the same call again (the
 * same listener, path, headers that the application gets and message), without Python, and counts how often.
 *
 * Threads: what is marked E belongs to Envoy's worker thread, what is marked P to whoever has Python's lock. A `Call` is
 * counted by references: one of the filter, one of the queue or of the object in Python.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Envoy's ABI, version 0.1, as far as it is needed. Weak: outside of Envoy the module can be imported, for its tests. */

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

enum { REQUEST_HEADERS = 0 };
enum { RECEIVED_BODY = 0, BUFFERED_BODY = 1 };
enum { CONTINUE = 0, STOP = 1, STOP_AND_WATERMARK = 2, STOP_WITHOUT_BUFFER = 3 };
enum { SOURCE_ADDRESS = 24, SOURCE_PORT = 25 };

#define ENVOY extern __attribute__((weak))
ENVOY size_t envoy_dynamic_module_callback_http_get_headers_size(void *, int);
ENVOY bool envoy_dynamic_module_callback_http_get_headers(void *, int, Header *);
ENVOY size_t envoy_dynamic_module_callback_http_get_body_chunks_size(void *, int);
ENVOY bool envoy_dynamic_module_callback_http_get_body_chunks(void *, int, Text *);
ENVOY void envoy_dynamic_module_callback_http_send_response_headers(void *, Header *, size_t, bool);
ENVOY void envoy_dynamic_module_callback_http_send_response_data(void *, Text, bool);
ENVOY void envoy_dynamic_module_callback_http_send_response_trailers(void *, Header *, size_t);
ENVOY bool envoy_dynamic_module_callback_http_filter_get_attribute_string(void *, size_t, Text *);
ENVOY bool envoy_dynamic_module_callback_http_filter_get_attribute_int(void *, size_t, uint64_t *);
ENVOY void envoy_dynamic_module_callback_http_filter_continue_decoding(void *);
ENVOY void *envoy_dynamic_module_callback_http_filter_scheduler_new(void *);
ENVOY void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *);
ENVOY void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *, uint64_t);

#define MAX_PATHS 32
#define MAX_NAMES 8
#define MAX_LENGTH 128        /* of a path or name */
#define MAX_HEADERS 192       /* of a request: one with more is passed on */
#define MAX_MESSAGE (64 * 1024)
#define MAX_UNENDED (8 * 1024) /* of a message that is whole, while its caller has yet to close his side */
#define PREFIX 5
#define MAX_CHUNKS 32
#define MAX_VALUE 4096         /* of a header that the application gets: a call with a longer one is passed on */
#define MAX_HELD 64           /* calls without a whole message, for each thread; then the oldest is passed on */
#define MAX_RESPONSE_HEADERS 32
#define MAX_PEER 64
#define KEPT 1024             /* responses, at most: each in the place that the hash of its call has */
#define MAX_KEPT 4096         /* bytes of such a call, and of its response */
#define MAX_COUNTED 200       /* kept responses of which Python is told at once how often they were given */

enum Event { RESPOND = 1, PASS_ON, FAIL };
enum State { NEW, HELD, TAKEN, PASSED };

/* The paths to take and the names of the headers that the application gets, from the filter's configuration. There is
 * one for each listener, and it is never freed: calls refer to it for as long as Python has them. */
typedef struct {
    int paths, names;
    char path[MAX_PATHS][MAX_LENGTH];
    char name[MAX_NAMES][MAX_LENGTH];
    size_t path_size[MAX_PATHS], name_size[MAX_NAMES];
    bool passing[MAX_NAMES]; /* whether a header says nothing of what is asked, but differs with each call */
    PyObject *path_text[MAX_PATHS], *name_bytes[MAX_NAMES]; /* P: made when first needed */
} Config;

typedef struct Call {
    atomic_int references;
    atomic_bool gone; /* whether the stream has ended: nobody reads a response any more */
    Config *config;
    void *scheduler; /* made by E before the call is queued */
    struct Call *next;
    /* E */
    void *stream;
    enum State state;
    struct Call *older, *newer; /* among those held, while it is listed */
    bool listed;
    /* E until the call is queued, then P */
    int path;
    char *header[MAX_NAMES];
    size_t header_size[MAX_NAMES];
    char peer[MAX_PEER];
    size_t peer_size;
    uint64_t port;
    double came, whole; /* when its headers and its message were there, by Python's time.monotonic() */
    char *message; /* with its prefix */
    size_t message_size;
    bool received; /* whether the application has it */
    /* P until it is committed, then E: headers, body and trailers of the response, one after the other */
    char *response;
    size_t response_size, response_room, body_at, body_size;
    int response_headers, response_trailers;
    int status;
    bool has_trailers, committed;
} Call;

/* A response that is given again to calls like the one that it was made for. */
typedef struct Kept {
    uint64_t hash;
    const Config *config;
    int path;
    char *key;
    size_t key_size;
    char *response;
    size_t response_size, body_at, body_size;
    int response_headers, response_trailers, status;
    bool has_trailers;
    double until;        /* by Python's time.monotonic() */
    uint64_t generation; /* in which it was made: it does not outlive that */
    uint64_t times;      /* under the lock: given since Python was told how often */
    struct Kept *next;   /* P: of all, also those whose place others have by now */
    PyObject *count;     /* P: is told */
} Kept;

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static Kept *kept[KEPT];           /* under the lock, as the next */
static uint64_t generation;
static atomic_int keeping;         /* the places that are taken */
static Kept *all_kept, *last_kept; /* P: the first is told next */
static Py_ssize_t count_kept;      /* P */
static PyObject *on_kept;          /* P: called when there is one, where there was none; NULL: none is kept */

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static Call *queue_first, *queue_last;
static int wake = -1;
static _Thread_local Call *oldest_held, *newest_held;
static _Thread_local int held;

static void release(Call *call) {
    if (atomic_fetch_sub(&call->references, 1) != 1) {
        return;
    }
    if (call->scheduler != NULL) {
        envoy_dynamic_module_callback_http_filter_scheduler_delete(call->scheduler);
    }
    for (int i = 0; i < MAX_NAMES; i++) {
        free(call->header[i]);
    }
    free(call->message);
    free(call->response);
    free(call);
}

/* Have Envoy call `on_http_filter_scheduled` in its worker thread, unless the stream has ended by then. */
static void commit(Call *call, enum Event event) {
    envoy_dynamic_module_callback_http_filter_scheduler_commit(call->scheduler, event);
}

/* ---- Envoy's worker thread ---- */

/* Free what was kept of a call that is not taken. */
static void forget(Call *call) {
    for (int i = 0; i < MAX_NAMES; i++) {
        free(call->header[i]);
        call->header[i] = NULL;
    }
    free(call->message);
    call->message = NULL;
}

static void unlist(Call *call) {
    if (!call->listed) {
        return;
    }
    *(call->older != NULL ? &call->older->newer : &oldest_held) = call->newer;
    *(call->newer != NULL ? &call->newer->older : &newest_held) = call->older;
    call->listed = false;
    held--;
}

static void let_go(Call *call, enum State state) {
    unlist(call);
    call->state = state;
    if (state == PASSED) {
        forget(call);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void hold(Call *call) {
    call->came = now();
    call->state = HELD;
    call->listed = true;
    call->older = newest_held;
    call->newer = NULL;
    if (newest_held != NULL) {
        newest_held->newer = call;
    } else {
        oldest_held = call;
    }
    newest_held = call;
    if (++held > MAX_HELD) {
        Call *oldest = oldest_held;
        if (oldest->scheduler == NULL) {
            oldest->scheduler = envoy_dynamic_module_callback_http_filter_scheduler_new(oldest->stream);
        }
        unlist(oldest); /* the next one that is too many passes on another: events come after this turn */
        commit(oldest, PASS_ON);
    }
}

const char *envoy_dynamic_module_on_program_init(void) {
    if (wake < 0) {
        wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    }
    return wake < 0 ? NULL : "v0.1.0";
}

static bool add_line(char (*to)[MAX_LENGTH], size_t *sizes, int *count, int most, const char *line, size_t size) {
    if (size == 0 || size >= MAX_LENGTH || *count == most) {
        return false;
    }
    memcpy(to[*count], line, size);
    to[*count][size] = 0;
    sizes[(*count)++] = size;
    return true;
}

/* The configuration has a line for each path, which begins with a slash, and for each header. NULL if it is wrong. */
const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, Text name, Text text) {
    (void)envoy;
    (void)name;
    Config *config = calloc(1, sizeof *config);
    const char *line = text.data, *end = text.data + text.size;
    while (config != NULL && line < end) {
        const char *stop = memchr(line, '\n', end - line);
        size_t size = (stop != NULL ? stop : end) - line;
        bool added = *line == '/' ? add_line(config->path, config->path_size, &config->paths, MAX_PATHS, line, size)
                                  : add_line(config->name, config->name_size, &config->names, MAX_NAMES, line, size);
        if (!added) {
            free(config);
            return NULL;
        }
        line += size + 1;
    }
    for (int i = 0; config != NULL && i < config->names; i++) {
        const char *one = config->name[i];
        config->passing[i] = strcmp(one, "grpc-timeout") == 0 || strcmp(one, "traceparent") == 0 ||
                             strcmp(one, "tracestate") == 0;
    }
    return config;
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { (void)config; }

const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream) {
    Call *call = calloc(1, sizeof *call);
    if (call != NULL) {
        atomic_init(&call->references, 1);
        call->config = (Config *)config;
        call->stream = stream;
    }
    return call;
}

void envoy_dynamic_module_on_http_filter_destroy(const void *module) {
    Call *call = (Call *)module;
    atomic_store(&call->gone, true);
    if (call->state == HELD) {
        let_go(call, PASSED);
    }
    release(call);
}

static bool named(const Header *header, const char *name, size_t size) {
    return header->name_size == size && memcmp(header->name, name, size) == 0;
}

static bool begins(const Header *header, const char *text, size_t size) {
    return header->value_size >= size && memcmp(header->value, text, size) == 0;
}

static bool has(const Header *header, const char *text, size_t size) {
    return header->value_size == size && begins(header, text, size);
}

#define NAMED(header, name) named(header, name, sizeof name - 1)
#define HAS(header, text) has(header, text, sizeof text - 1)
#define BEGINS(header, text) begins(header, text, sizeof text - 1)

/* Whether these are the headers of a call to take: its path is set then, and what the application gets is kept. */
static bool keep_headers(Call *call, const Header *headers, size_t count) {
    Config *config = call->config;
    bool post = false, grpc = false, trailers = false;
    call->path = -1;
    for (size_t i = 0; i < count; i++) {
        const Header *one = &headers[i];
        if (NAMED(one, ":path")) {
            for (int path = 0; path < config->paths && call->path < 0; path++) {
                call->path = has(one, config->path[path], config->path_size[path]) ? path : -1;
            }
        } else if (NAMED(one, ":method")) {
            post = HAS(one, "POST");
        } else if (NAMED(one, "content-type")) {
            grpc = HAS(one, "application/grpc") || BEGINS(one, "application/grpc+") || BEGINS(one, "application/grpc;");
        } else if (NAMED(one, "te")) {
            trailers = HAS(one, "trailers");
        } else if (NAMED(one, "grpc-encoding") && !HAS(one, "identity")) {
            return false;
        }
    }
    if (call->path < 0 || !post || !grpc || !trailers) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        for (int name = 0; name < config->names; name++) {
            const Header *one = &headers[i];
            if (!named(one, config->name[name], config->name_size[name])) {
                continue;
            }
            if (call->header[name] != NULL || one->value_size > MAX_VALUE) {
                return false; /* twice, or long: the application decides what holds */
            }
            call->header[name] = malloc(one->value_size + 1);
            if (call->header[name] == NULL) {
                return false;
            }
            memcpy(call->header[name], one->value, one->value_size);
            call->header_size[name] = one->value_size;
        }
    }
    return true;
}

int envoy_dynamic_module_on_http_filter_request_headers(void *stream, const void *module, bool end) {
    Call *call = (Call *)module;
    Header headers[MAX_HEADERS];
    call->state = PASSED;
    size_t count = envoy_dynamic_module_callback_http_get_headers_size(stream, REQUEST_HEADERS);
    if (end || count > MAX_HEADERS ||
        !envoy_dynamic_module_callback_http_get_headers(stream, REQUEST_HEADERS, headers) ||
        !keep_headers(call, headers, count)) {
        forget(call);
        return CONTINUE;
    }
    hold(call);
    return STOP;
}

/* Copy a body of at most ROOM bytes TO, unless that is NULL. Returns its size, SIZE_MAX if it is larger. */
static size_t read_body(void *stream, int kind, char *to, size_t room) {
    Text chunks[MAX_CHUNKS];
    size_t size = 0, count = envoy_dynamic_module_callback_http_get_body_chunks_size(stream, kind);
    if (count == 0) {
        return 0;
    }
    if (count > MAX_CHUNKS || !envoy_dynamic_module_callback_http_get_body_chunks(stream, kind, chunks)) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < count; i++) {
        if (chunks[i].size > room - size) {
            return SIZE_MAX;
        }
        if (to != NULL) {
            memcpy(to + size, chunks[i].data, chunks[i].size);
        }
        size += chunks[i].size;
    }
    return size;
}

/* Read what there is of the body. Returns whether it is one whole message, uncompressed. */
static bool read_message(void *stream, Call *call) {
    const size_t room = MAX_MESSAGE + PREFIX;
    size_t before = read_body(stream, BUFFERED_BODY, NULL, room);
    size_t now = before == SIZE_MAX ? SIZE_MAX : read_body(stream, RECEIVED_BODY, NULL, room - before);
    if (now == SIZE_MAX || before + now < PREFIX) {
        return false;
    }
    size_t size = before + now;
    unsigned char *data = malloc(size);
    if (data == NULL) {
        return false;
    }
    read_body(stream, BUFFERED_BODY, (char *)data, before);
    read_body(stream, RECEIVED_BODY, (char *)data + before, now);
    size_t said = (size_t)data[1] << 24 | (size_t)data[2] << 16 | (size_t)data[3] << 8 | data[4];
    free(call->message);
    call->message = (char *)data;
    call->message_size = size;
    return data[0] == 0 && said == size - PREFIX;
}

/* The IP address in `192.0.2.1:4711` or `[::1]:4711`, as Envoy has it: callers are told apart by that. */
static Text address_in(Text peer) {
    const char *port = memrchr(peer.data, ':', peer.size);
    if (peer.size > 0 && peer.data[0] == '[') {
        const char *end = memchr(peer.data, ']', peer.size);
        return end == NULL ? peer : (Text){peer.data + 1, end - peer.data - 1};
    }
    if (port == NULL || memchr(peer.data, ':', peer.size) != port) {
        return peer; /* without a port */
    }
    return (Text){peer.data, port - peer.data};
}

/* ---- Kept responses, of either thread ---- */

static bool add_part(char *to, size_t *size, const void *data, size_t more) {
    if (more > MAX_KEPT - *size) {
        return false;
    }
    memcpy(to + *size, data, more);
    *size += more;
    return true;
}

/* What makes CALL the same as another of its path. TO has room for MAX_KEPT bytes. Returns how many, 0 if it has more. */
static size_t key_of(const Call *call, char *to) {
    size_t size = 0;
    for (int i = 0; i < call->config->names; i++) {
        if (!call->config->passing[i]) {
            uint32_t length = call->header[i] == NULL ? UINT32_MAX : (uint32_t)call->header_size[i];
            if (!add_part(to, &size, &length, sizeof length) ||
                (call->header[i] != NULL && !add_part(to, &size, call->header[i], call->header_size[i]))) {
                return 0;
            }
        }
    }
    return add_part(to, &size, call->message, call->message_size) ? size : 0;
}

static uint64_t hash_of(const Call *call, const char *key, size_t size) {
    uint64_t hash = (uint64_t)(uintptr_t)call->config + (uint64_t)call->path;
    while (size > 0) {
        uint64_t word = 0;
        size_t part = size < sizeof word ? size : sizeof word;
        memcpy(&word, key, part);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u; /* Fibonacci hashing: 2**64 by the golden ratio */
        hash ^= hash >> 32;
        key += part;
        size -= part;
    }
    return hash;
}

/* Whether ONE is for the call with this HASH and KEY and holds still. Under the lock. */
static bool is_for(const Kept *one, const Call *call, uint64_t hash, const char *key, size_t size) {
    return one != NULL && one->hash == hash && one->config == call->config && one->path == call->path &&
           one->key_size == size && memcmp(one->key, key, size) == 0 && one->generation == generation &&
           now() < one->until;
}

/* Give CALL the response that is kept for it, if there is one. Returns whether there is. */
static bool give_kept(Call *call) {
    char key[MAX_KEPT];
    size_t size = atomic_load(&keeping) > 0 ? key_of(call, key) : 0;
    if (size == 0) {
        return false;
    }
    uint64_t hash = hash_of(call, key, size);
    pthread_mutex_lock(&kept_lock);
    Kept *found = kept[hash % KEPT];
    bool is_kept = is_for(found, call, hash, key, size) && (call->response = malloc(found->response_size)) != NULL;
    if (is_kept) {
        memcpy(call->response, found->response, found->response_size);
        call->response_size = call->response_room = found->response_size;
        call->body_at = found->body_at;
        call->body_size = found->body_size;
        call->response_headers = found->response_headers;
        call->response_trailers = found->response_trailers;
        call->status = found->status;
        call->has_trailers = found->has_trailers;
        call->committed = true;
        found->times++;
    }
    pthread_mutex_unlock(&kept_lock);
    return is_kept;
}

/* Take a call whose message is whole: answer it at once, or have Python do it. */
static void take_whole(void *stream, Call *call) {
    Text peer;
    if (call->scheduler == NULL) {
        call->scheduler = envoy_dynamic_module_callback_http_filter_scheduler_new(stream);
    }
    if (give_kept(call)) {
        let_go(call, TAKEN);
        commit(call, RESPOND);
        return;
    }
    if (envoy_dynamic_module_callback_http_filter_get_attribute_string(stream, SOURCE_ADDRESS, &peer) &&
        envoy_dynamic_module_callback_http_filter_get_attribute_int(stream, SOURCE_PORT, &call->port) &&
        peer.size <= MAX_PEER) {
        peer = address_in(peer);
        memcpy(call->peer, peer.data, peer.size);
        call->peer_size = peer.size;
    }
    call->whole = now();
    let_go(call, TAKEN);
    atomic_fetch_add(&call->references, 1);
    pthread_mutex_lock(&queue_lock);
    bool is_first = queue_first == NULL;
    *(is_first ? &queue_first : &queue_last->next) = call;
    queue_last = call;
    pthread_mutex_unlock(&queue_lock);
    if (is_first) {
        uint64_t one = 1;
        ssize_t written = write(wake, &one, sizeof one); /* fails only if it is readable anyway */
        (void)written;
    }
}

int envoy_dynamic_module_on_http_filter_request_body(void *stream, const void *module, bool end) {
    Call *call = (Call *)module;
    if (call->state != HELD) {
        return call->state == TAKEN ? STOP_WITHOUT_BUFFER : CONTINUE;
    }
    bool whole = read_message(stream, call);
    if (whole && end) {
        take_whole(stream, call);
        return STOP_WITHOUT_BUFFER;
    }
    if (whole && call->message_size <= MAX_UNENDED) {
        return STOP_AND_WATERMARK;
    }
    let_go(call, PASSED);
    return CONTINUE;
}

int envoy_dynamic_module_on_http_filter_request_trailers(void *stream, const void *module) {
    Call *call = (Call *)module;
    if (call->state != HELD) {
        return call->state == TAKEN ? STOP : CONTINUE;
    }
    if (read_message(stream, call)) {
        take_whole(stream, call);
        return STOP;
    }
    let_go(call, PASSED);
    return CONTINUE;
}

int envoy_dynamic_module_on_http_filter_response_headers(void *stream, const void *module, bool end) {
    (void)stream, (void)module, (void)end;
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

void envoy_dynamic_module_on_http_filter_stream_complete(void *stream, const void *module) {
    (void)stream;
    Call *call = (Call *)module;
    atomic_store(&call->gone, true);
    if (call->state == HELD) {
        let_go(call, PASSED); /* Envoy 1.40 destroys the filter later */
    }
}

#define HEADER(name, value) {name, sizeof name - 1, value, sizeof value - 1}

/* Read COUNT headers AT, each after the lengths of its name and value. Returns where they end. */
static const char *read_headers(const char *at, int count, Header *to) {
    for (int i = 0; i < count; i++) {
        uint32_t sizes[2];
        memcpy(sizes, at, sizeof sizes);
        at += sizeof sizes;
        to[i] = (Header){at, sizes[0], at + sizes[0], sizes[1]};
        at += sizes[0] + sizes[1];
    }
    return at;
}

static void send_response(void *stream, const Call *call) {
    Header headers[1 + MAX_RESPONSE_HEADERS], trailers[MAX_RESPONSE_HEADERS];
    char status[12];
    int digits = snprintf(status, sizeof status, "%d", call->status);
    headers[0] = (Header){":status", sizeof ":status" - 1, status, digits};
    read_headers(call->response, call->response_headers, headers + 1);
    bool ends = !call->has_trailers && call->body_size == 0;
    envoy_dynamic_module_callback_http_send_response_headers(stream, headers, 1 + call->response_headers, ends);
    if (ends || atomic_load(&call->gone)) {
        return;
    }
    Text body = {call->response + call->body_at, call->body_size};
    envoy_dynamic_module_callback_http_send_response_data(stream, body, !call->has_trailers);
    if (call->has_trailers && !atomic_load(&call->gone)) {
        read_headers(body.data + body.size, call->response_trailers, trailers);
        envoy_dynamic_module_callback_http_send_response_trailers(stream, trailers, call->response_trailers);
    }
}

void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *module, uint64_t event) {
    Call *call = (Call *)module;
    atomic_fetch_add(&call->references, 1); /* what is sent may end the stream, which releases the filter's */
    if (event == PASS_ON && call->state == HELD) {
        let_go(call, PASSED);
        envoy_dynamic_module_callback_http_filter_continue_decoding(stream);
    } else if (event == RESPOND && !atomic_load(&call->gone)) {
        send_response(stream, call);
    } else if (event == FAIL && !atomic_load(&call->gone)) {
        Header headers[] = {
            HEADER(":status", "200"),
            HEADER("content-type", "application/grpc"),
            HEADER("grpc-status", "13"),
            HEADER("grpc-message", "the server has not answered the call"),
        };
        envoy_dynamic_module_callback_http_send_response_headers(stream, headers, 4, true);
    }
    release(call);
}

/* What Envoy asks for by name, and never calls: this filter makes no calls of its own, and does not end the chain. */
#define UNUSED(name) void envoy_dynamic_module_on_http_filter_##name(void) {}
UNUSED(http_callout_done)
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
UNUSED(downstream_above_write_buffer_high_watermark)
UNUSED(downstream_below_write_buffer_low_watermark)
UNUSED(config_scheduled)
UNUSED(config_http_callout_done)
UNUSED(config_http_stream_headers)
UNUSED(config_http_stream_data)
UNUSED(config_http_stream_trailers)
UNUSED(config_http_stream_complete)
UNUSED(config_http_stream_reset)

/* ---- Python ---- */

/* Something to await that has its value already. */
typedef struct {
    PyObject_HEAD
    PyObject *value;
} Ready;

static void ready_dealloc(Ready *self) {
    Py_XDECREF(self->value);
    PyObject_Free(self);
}

static PySendResult ready_send(Ready *self, PyObject *sent, PyObject **result) {
    (void)sent;
    *result = Py_NewRef(self->value);
    return PYGEN_RETURN;
}

static PyObject *ready_next(Ready *self) {
    PyErr_SetObject(PyExc_StopIteration, self->value);
    return NULL;
}

static PyAsyncMethods ready_async = {.am_await = (unaryfunc)PyObject_SelfIter, .am_send = (sendfunc)ready_send};

static PyTypeObject ReadyType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "ratelimit_service_crossing.Ready",
    .tp_basicsize = sizeof(Ready),
    .tp_dealloc = (destructor)ready_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_as_async = &ready_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)ready_next,
};

static Ready *sent; /* what `send` returns */

/* A call as its application gets it: an ASGI scope, and the two functions that go with it. */
typedef struct {
    PyObject_HEAD
    Call *call;
    PyObject *scope;
} CallObject;

static struct {
    PyObject *came, *whole, *type, *path, *method, *headers, *client, *http, *post, *content_type, *grpc, *te, *trailers;
    PyObject *http_request, *http_disconnect, *body, *more_body, *status;
    PyObject *response_start, *response_body, *response_trailers, *response_keep, *until, *count, *extensions;
    PyObject *extended; /* the value of a scope's `extensions` */
} text;

static bool make_texts(void) {
    const struct {
        PyObject **to;
        const char *text;
        bool is_bytes;
    } all[] = {
        {&text.came, "came", false},
        {&text.whole, "whole", false},
        {&text.type, "type", false},
        {&text.path, "path", false},
        {&text.method, "method", false},
        {&text.headers, "headers", false},
        {&text.client, "client", false},
        {&text.http, "http", false},
        {&text.post, "POST", false},
        {&text.content_type, "content-type", true},
        {&text.grpc, "application/grpc", true},
        {&text.te, "te", true},
        {&text.trailers, "trailers", true},
        {&text.http_request, "http.request", false},
        {&text.http_disconnect, "http.disconnect", false},
        {&text.body, "body", false},
        {&text.more_body, "more_body", false},
        {&text.status, "status", false},
        {&text.response_start, "http.response.start", false},
        {&text.response_body, "http.response.body", false},
        {&text.response_trailers, "http.response.trailers", false},
        {&text.response_keep, "http.response.keep", false},
        {&text.until, "until", false},
        {&text.count, "count", false},
        {&text.extensions, "extensions", false},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        *all[i].to = all[i].is_bytes ? PyBytes_FromString(all[i].text) : PyUnicode_InternFromString(all[i].text);
        if (*all[i].to == NULL) {
            return false;
        }
    }
    text.extended = Py_BuildValue("{O{}}", text.response_keep);
    return text.extended != NULL;
}

static bool is_text(PyObject *value, PyObject *wanted) {
    return value == wanted || (value != NULL && PyUnicode_Check(value) && PyUnicode_Compare(value, wanted) == 0);
}

static void call_dealloc(CallObject *self) {
    if (self->call != NULL) {
        if (!self->call->committed && !atomic_load(&self->call->gone)) {
            commit(self->call, FAIL); /* its application has ended without a response */
        }
        release(self->call);
    }
    Py_XDECREF(self->scope);
    PyObject_Free(self);
}

/* Take NAME out of the event, which refers to it as long as it is there. */
static PyObject *field(PyObject *event, PyObject *name) { return PyDict_GetItemWithError(event, name); }

static PyObject *event_of(PyObject *type, PyObject *body) {
    PyObject *event = PyDict_New();
    if (event != NULL && (PyDict_SetItem(event, text.type, type) < 0 ||
                          (body != NULL && (PyDict_SetItem(event, text.body, body) < 0 ||
                                            PyDict_SetItem(event, text.more_body, Py_False) < 0)))) {
        Py_CLEAR(event);
    }
    return event;
}

static PyObject *call_receive(CallObject *self, PyObject *unused) {
    (void)unused;
    Call *call = self->call;
    PyObject *body = NULL;
    if (!call->received && !atomic_load(&call->gone)) {
        body = PyBytes_FromStringAndSize(call->message, call->message_size);
        if (body == NULL) {
            return NULL;
        }
    }
    call->received = true;
    if (call->message_size > MAX_KEPT) {
        free(call->message);
        call->message = NULL;
    }
    Ready *ready = PyObject_New(Ready, &ReadyType);
    if (ready != NULL) {
        ready->value = event_of(body != NULL ? text.http_request : text.http_disconnect, body);
        if (ready->value == NULL) {
            Py_CLEAR(ready);
        }
    }
    Py_XDECREF(body);
    return (PyObject *)ready;
}

static bool append(Call *call, const void *data, size_t size) {
    if (size > call->response_room - call->response_size) {
        size_t room = 2 * call->response_room + size + 256;
        char *larger = realloc(call->response, room);
        if (larger == NULL) {
            PyErr_NoMemory();
            return false;
        }
        call->response = larger;
        call->response_room = room;
    }
    memcpy(call->response + call->response_size, data, size);
    call->response_size += size;
    return true;
}

/* Add the headers of an EVENT, pairs of bytes. Returns how many, -1 with an error of Python's. */
static int append_headers(Call *call, PyObject *event) {
    PyObject *headers = field(event, text.headers);
    PyObject *all = headers == NULL ? NULL : PySequence_Fast(headers, "headers is no sequence");
    if (all == NULL) {
        return headers == NULL && !PyErr_Occurred() ? 0 : -1;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(all);
    int added = count <= MAX_RESPONSE_HEADERS ? (int)count : -1;
    for (Py_ssize_t i = 0; i < count && added >= 0; i++) {
        char *name, *value;
        Py_ssize_t name_size, value_size;
        PyObject *pair = PySequence_Fast_GET_ITEM(all, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            PyBytes_AsStringAndSize(PyTuple_GET_ITEM(pair, 0), &name, &name_size) < 0 ||
            PyBytes_AsStringAndSize(PyTuple_GET_ITEM(pair, 1), &value, &value_size) < 0) {
            added = -1;
            break;
        }
        uint32_t sizes[2] = {(uint32_t)name_size, (uint32_t)value_size};
        if (!append(call, sizes, sizeof sizes) || !append(call, name, name_size) || !append(call, value, value_size)) {
            added = -1;
        }
    }
    Py_DECREF(all);
    if (added < 0 && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "headers are at most 32 pairs of bytes");
    }
    return added;
}

static bool add_start(Call *call, PyObject *event) {
    PyObject *status = field(event, text.status), *trailers;
    int code = status == NULL ? 0 : (int)PyLong_AsLong(status);
    call->response_size = 0;
    call->response_headers = append_headers(call, event);
    call->body_at = call->response_size;
    trailers = PyDict_GetItemString(event, "trailers");
    call->has_trailers = trailers != NULL && PyObject_IsTrue(trailers) == 1;
    if (call->response_headers < 0 || PyErr_Occurred()) {
        return false;
    }
    if (code < 200 || code > 599) {
        PyErr_SetString(PyExc_ValueError, "a status is 200 to 599");
        return false;
    }
    call->status = code;
    return true;
}

static bool add_body(Call *call, PyObject *event) {
    PyObject *body = field(event, text.body), *more = field(event, text.more_body);
    char *data = NULL;
    Py_ssize_t size = 0;
    if (more != NULL && PyObject_IsTrue(more)) {
        PyErr_SetString(PyExc_ValueError, "a response has one body here");
        return false;
    }
    if (body != NULL && (PyBytes_AsStringAndSize(body, &data, &size) < 0 || !append(call, data, size))) {
        return false;
    }
    call->body_size = size;
    return !PyErr_Occurred();
}

static void free_kept(Kept *one) {
    Py_XDECREF(one->count);
    free(one->key);
    free(one->response);
    free(one);
}

static void list_kept(Kept *one) {
    one->next = NULL;
    *(all_kept == NULL ? &all_kept : &last_kept->next) = one;
    last_kept = one;
    count_kept++;
}

static char *copy_of(const char *data, size_t size) {
    char *copy = malloc(size + 1);
    return copy == NULL ? NULL : memcpy(copy, data, size);
}

static Kept *kept_of(const Call *call, uint64_t hash, const char *key, size_t key_size, double until, PyObject *count) {
    Kept *one = calloc(1, sizeof *one);
    if (one == NULL) {
        return NULL;
    }
    *one = (Kept){
        .hash = hash,
        .config = call->config,
        .path = call->path,
        .key = copy_of(key, key_size),
        .key_size = key_size,
        .response = copy_of(call->response, call->response_size),
        .response_size = call->response_size,
        .body_at = call->body_at,
        .body_size = call->body_size,
        .response_headers = call->response_headers,
        .response_trailers = call->response_trailers,
        .status = call->status,
        .has_trailers = call->has_trailers,
        .until = until,
        .count = Py_NewRef(count),
    };
    if (one->key == NULL || one->response == NULL) {
        free_kept(one);
        return NULL;
    }
    return one;
}

/* Keep the response of CALL, which has been sent, as the EVENT says, if the same call came not longer ago than it would
 * be kept for: most that are denied once are not asked again so soon. Returns false with an error of Python's. */
static bool keep(const Call *call, PyObject *event) {
    static struct {
        uint64_t hash;
        double at;
    } seen[KEPT];
    PyObject *said = field(event, text.until), *count = field(event, text.count);
    double until = said == NULL ? -1.0 : PyFloat_AsDouble(said), time = now();
    char key[MAX_KEPT];
    if (PyErr_Occurred() || count == NULL || !PyCallable_Check(count) || !call->committed) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "keep a whole response until a time, with a function that counts");
        }
        return false;
    }
    size_t size = call->message == NULL || call->response_size > MAX_KEPT ? 0 : key_of(call, key);
    if (size == 0 || until <= time || on_kept == NULL) {
        return true;
    }
    uint64_t hash = hash_of(call, key, size);
    bool again = seen[hash % KEPT].hash == hash && time - seen[hash % KEPT].at < until - time;
    seen[hash % KEPT].hash = hash;
    seen[hash % KEPT].at = time;
    pthread_mutex_lock(&kept_lock);
    bool is_kept = is_for(kept[hash % KEPT], call, hash, key, size); /* for another of the calls that came together */
    pthread_mutex_unlock(&kept_lock);
    Kept *one = again && !is_kept ? kept_of(call, hash, key, size, until, count) : NULL;
    if (one == NULL) {
        return true;
    }
    pthread_mutex_lock(&kept_lock);
    atomic_fetch_add(&keeping, kept[hash % KEPT] == NULL);
    one->generation = generation;
    kept[hash % KEPT] = one; /* what was there waits to be counted, and to be freed */
    pthread_mutex_unlock(&kept_lock);
    list_kept(one);
    PyObject *done = count_kept == 1 ? PyObject_CallNoArgs(on_kept) : Py_NewRef(Py_None);
    Py_XDECREF(done);
    return done != NULL;
}

static PyObject *call_send(CallObject *self, PyObject *event) {
    Call *call = self->call;
    if (PyDict_Check(event) && is_text(field(event, text.type), text.response_keep)) {
        return keep(call, event) ? Py_NewRef((PyObject *)sent) : NULL;
    }
    if (atomic_load(&call->gone)) {
        PyErr_SetString(PyExc_ConnectionResetError, "the caller has gone");
        return NULL;
    }
    if (!PyDict_Check(event) || call->committed) {
        PyErr_SetString(PyExc_ValueError, "an event is a dict, and none follows the last of a response");
        return NULL;
    }
    PyObject *type = field(event, text.type);
    bool last = false, added = false;
    if (is_text(type, text.response_start) && call->status == 0) {
        added = add_start(call, event);
    } else if (is_text(type, text.response_body) && call->status != 0) {
        added = add_body(call, event);
        last = !call->has_trailers;
    } else if (is_text(type, text.response_trailers) && call->has_trailers) {
        call->response_trailers = append_headers(call, event);
        added = last = call->response_trailers >= 0;
    } else if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "this event does not follow the one before it");
    }
    if (!added) {
        return NULL;
    }
    if (last) {
        call->committed = true;
        commit(call, RESPOND);
    }
    return Py_NewRef((PyObject *)sent);
}

/* Add a header as `append_headers` does. */
static bool append_header(Call *call, const char *name, const char *value) {
    uint32_t sizes[2] = {(uint32_t)strlen(name), (uint32_t)strlen(value)};
    return append(call, sizes, sizeof sizes) && append(call, name, sizes[0]) && append(call, value, sizes[1]);
}

static PyObject *call_message(CallObject *self, PyObject *unused) {
    (void)unused;
    const Call *call = self->call;
    if (call->received || atomic_load(&call->gone)) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize(call->message + PREFIX, call->message_size - PREFIX);
}

static PyObject *call_header(CallObject *self, PyObject *wanted) {
    const Call *call = self->call;
    const char *name = PyUnicode_AsUTF8(wanted);
    for (int i = 0; name != NULL && i < call->config->names; i++) {
        if (call->header[i] != NULL && strcmp(call->config->name[i], name) == 0) {
            return PyBytes_FromStringAndSize(call->header[i], call->header_size[i]);
        }
    }
    return name == NULL ? NULL : Py_NewRef(Py_None);
}

static PyObject *call_respond(CallObject *self, PyObject *message) {
    Call *call = self->call;
    char *data;
    Py_ssize_t size;
    if (call->status != 0) {
        PyErr_SetString(PyExc_ValueError, "a call has one response");
        return NULL;
    }
    if (atomic_load(&call->gone)) {
        PyErr_SetString(PyExc_ConnectionResetError, "the caller has gone");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(message, &data, &size) < 0) {
        return NULL;
    }
    const unsigned char prefix[PREFIX] = {0, size >> 24 & 0xff, size >> 16 & 0xff, size >> 8 & 0xff, size & 0xff};
    call->response_size = 0;
    if (!append_header(call, "content-type", "application/grpc")) {
        return NULL;
    }
    call->body_at = call->response_size;
    if (!append(call, prefix, PREFIX) || !append(call, data, size) || !append_header(call, "grpc-status", "0")) {
        return NULL;
    }
    call->body_size = PREFIX + size;
    call->response_headers = call->response_trailers = 1;
    call->status = 200;
    call->has_trailers = call->committed = true;
    commit(call, RESPOND);
    Py_RETURN_NONE;
}

static PyMethodDef call_methods[] = {
    {"message", (PyCFunction)call_message, METH_NOARGS,
     "The message, without its prefix. None once the caller has gone, or after `receive`."},
    {"header", (PyCFunction)call_header, METH_O, "One of the headers that the application gets, None if it was not sent."},
    {"respond", (PyCFunction)call_respond, METH_O,
     "Send a message as the whole response. Raises ConnectionResetError once the caller has gone."},
    {"receive", (PyCFunction)call_receive, METH_NOARGS, "ASGI's `receive`: the message, with its prefix."},
    {"send", (PyCFunction)call_send, METH_O, "ASGI's `send`. Raises ConnectionResetError once the caller has gone."},
    {NULL, NULL, 0, NULL},
};

static PyObject *scope_of(const Call *call);
static PyObject *path_of(const Call *call);

static PyObject *call_scope(CallObject *self, void *unused) {
    (void)unused;
    if (self->scope == NULL) {
        self->scope = scope_of(self->call);
    }
    return Py_XNewRef(self->scope);
}

static PyObject *call_path(CallObject *self, void *unused) {
    (void)unused;
    return Py_XNewRef(path_of(self->call));
}

static PyObject *call_came(CallObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->call->came);
}

static PyObject *call_whole(CallObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->call->whole);
}

static PyGetSetDef call_values[] = {
    {"scope", (getter)call_scope, NULL, "ASGI's scope; its headers are a dict.", NULL},
    {"path", (getter)call_path, NULL, "The path of its method.", NULL},
    {"came", (getter)call_came, NULL, "When its headers were there, by time.monotonic().", NULL},
    {"whole", (getter)call_whole, NULL, "When its message was there, likewise.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject CallType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "ratelimit_service_crossing.Call",
    .tp_basicsize = sizeof(CallObject),
    .tp_dealloc = (destructor)call_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = call_methods,
    .tp_getset = call_values,
};

static bool set_new(PyObject *dict, PyObject *key, PyObject *value) {
    bool is_set = value != NULL && PyDict_SetItem(dict, key, value) == 0;
    Py_XDECREF(value);
    return is_set;
}

static PyObject *headers_of(const Call *call) {
    Config *config = call->config;
    PyObject *headers = PyDict_New();
    bool made = headers != NULL && PyDict_SetItem(headers, text.content_type, text.grpc) == 0 &&
                PyDict_SetItem(headers, text.te, text.trailers) == 0;
    for (int i = 0; i < config->names && made; i++) {
        if (call->header[i] == NULL) {
            continue;
        }
        if (config->name_bytes[i] == NULL) {
            config->name_bytes[i] = PyBytes_FromString(config->name[i]);
        }
        made = config->name_bytes[i] != NULL &&
               set_new(headers, config->name_bytes[i], PyBytes_FromStringAndSize(call->header[i], call->header_size[i]));
    }
    if (!made) {
        Py_CLEAR(headers);
    }
    return headers;
}

static PyObject *client_of(const Call *call) {
    if (call->peer_size == 0) {
        return Py_NewRef(Py_None);
    }
    return Py_BuildValue("(s#K)", call->peer, (Py_ssize_t)call->peer_size, (unsigned long long)call->port);
}

/* Borrowed; NULL with an error of Python's. */
static PyObject *path_of(const Call *call) {
    PyObject **path = &call->config->path_text[call->path];
    if (*path == NULL) {
        *path = PyUnicode_FromString(call->config->path[call->path]);
    }
    return *path;
}

static PyObject *scope_of(const Call *call) {
    PyObject *path = path_of(call);
    PyObject *scope = path == NULL ? NULL : PyDict_New();
    if (scope != NULL &&
        !(PyDict_SetItem(scope, text.type, text.http) == 0 && PyDict_SetItem(scope, text.path, path) == 0 &&
          PyDict_SetItem(scope, text.method, text.post) == 0 && set_new(scope, text.headers, headers_of(call)) &&
          set_new(scope, text.client, client_of(call)) &&
          PyDict_SetItem(scope, text.extensions, text.extended) == 0 && set_new(scope, text.came, PyFloat_FromDouble(call->came)) &&
          set_new(scope, text.whole, PyFloat_FromDouble(call->whole)))) {
        Py_CLEAR(scope);
    }
    return scope;
}

/* The object for CALL, whose reference it takes over; NULL with an error of Python's. */
static PyObject *object_of(Call *call) {
    CallObject *self = PyObject_New(CallObject, &CallType);
    if (self == NULL) {
        commit(call, FAIL);
        release(call);
        return NULL;
    }
    self->call = call;
    self->scope = NULL; /* made for those that want it */
    return (PyObject *)self;
}

static PyObject *take(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    uint64_t count;
    ssize_t size = read(wake, &count, sizeof count); /* fails only if nothing has been written */
    (void)size;
    pthread_mutex_lock(&queue_lock);
    Call *call = queue_first;
    queue_first = queue_last = NULL;
    pthread_mutex_unlock(&queue_lock);
    PyObject *calls = PyList_New(0);
    while (call != NULL) {
        Call *next = call->next;
        PyObject *one = object_of(call);
        if (one == NULL || calls == NULL || PyList_Append(calls, one) < 0) {
            PyErr_Clear(); /* no memory: this call gets an error, the others go on */
        }
        Py_XDECREF(one);
        call = next;
    }
    return calls != NULL ? calls : PyErr_NoMemory();
}

/* Tell the functions of kept responses how often these were given since, and free what no longer holds: MAX_COUNTED of
 * them, those first whose turn is longest ago, since calls wait meanwhile. */
static PyObject *collect(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    double time = now();
    for (Py_ssize_t left = count_kept < MAX_COUNTED ? count_kept : MAX_COUNTED; left > 0 && all_kept != NULL; left--) {
        Kept *one = all_kept, **place = &kept[one->hash % KEPT];
        all_kept = one->next;
        count_kept--;
        pthread_mutex_lock(&kept_lock);
        uint64_t times = one->times;
        bool has_place = *place == one;
        bool is_over = !has_place || one->until <= time || one->generation != generation;
        one->times = 0;
        if (has_place && is_over) {
            *place = NULL;
            atomic_fetch_sub(&keeping, 1);
        }
        pthread_mutex_unlock(&kept_lock);
        PyObject *count = Py_NewRef(one->count);
        if (is_over) {
            free_kept(one);
        } else {
            list_kept(one);
        }
        PyObject *told = times > 0 ? PyObject_CallFunction(count, "K", (unsigned long long)times) : Py_NewRef(Py_None);
        if (told == NULL) {
            PyErr_WriteUnraisable(count);
        }
        Py_XDECREF(told);
        Py_DECREF(count);
    }
    return PyLong_FromSsize_t(count_kept);
}

static PyObject *drop(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    pthread_mutex_lock(&kept_lock);
    generation++;
    pthread_mutex_unlock(&kept_lock);
    Py_RETURN_NONE;
}

static PyObject *call_on_kept(PyObject *module, PyObject *function) {
    (void)module;
    Py_XSETREF(on_kept, function == Py_None ? NULL : Py_NewRef(function));
    Py_RETURN_NONE;
}

static PyObject *file_number(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(wake);
}

static PyMethodDef functions[] = {
    {"take", take, METH_NOARGS, "Remove the calls that wait, the oldest first."},
    {"fileno", file_number, METH_NOARGS, "The descriptor that is readable while calls wait; -1 outside of Envoy."},
    {"collect", collect, METH_NOARGS, "Have what was given of the first 200 kept responses counted. Returns how many there are."},
    {"drop", drop, METH_NOARGS, "Give no response again that is kept now; what was given is counted by `collect`."},
    {"call_on_kept", call_on_kept, METH_O, "Keep responses, and call this when one is while none was; None: keep none."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_crossing", "Calls that Envoy passes to Python.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__crossing(void) {
    if (PyType_Ready(&CallType) < 0 || PyType_Ready(&ReadyType) < 0 || !make_texts()) {
        return NULL;
    }
    sent = PyObject_New(Ready, &ReadyType);
    if (sent == NULL) {
        return NULL;
    }
    sent->value = Py_NewRef(Py_None);
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddObjectRef(module, "Call", (PyObject *)&CallType) < 0) {
        Py_CLEAR(module);
    }
    return module;
}
