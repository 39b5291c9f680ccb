/* The module of deploy/envoy/module without Envoy, in one thread and by a clock of its own: test_module_alone.py builds it with
 * sanitizers, and runs one case at a time. */
#define _GNU_SOURCE
#include <assert.h>
#include <pthread.h>
#include <time.h>

static long long moment = 1000000000000;

static int read_clock(struct timespec *time) {
    time->tv_sec = moment / 1000000000;
    time->tv_nsec = moment % 1000000000;
    return 0;
}

#define clock_gettime(clock, time) read_clock(time)
#define pthread_create(thread, attributes, function, argument) ((void)(function), 0)
#define pthread_join(thread, result) ((void)0)
#include "grants.c"

/* ---- Envoy ---- */

typedef struct {
    const char *key, *path; /* NULL if there is none */
    const Filter *filter;
    int status; /* of a response here; 1 if the request goes on, 0 while it is held */
    bool scheduled;
    char headers[1024];
} Stream;

typedef struct {
    uint64_t id;
    Stream *stream; /* NULL for one of the configuration */
    bool is_grant;
    Out body;
} Call;

static Call calls[4096]; /* that have not been answered */
static size_t call_count;
static Stream *scheduled[4096];
static size_t scheduled_count;
static bool works;
static size_t prefix; /* of the prefix `/a`, so many bytes are returned */
static bool keeps_returns; /* whether the service does not make returns */

bool ENVOY(get_header)(void *stream, int kind, Text name, Text *to, size_t index, size_t *count) {
    const char *value = name.data[0] == ':' ? ((Stream *)stream)->path : ((Stream *)stream)->key;
    assert(kind == REQUEST_HEADERS && index == 0);
    if (count != NULL) {
        *count = value != NULL;
    }
    *to = (Text){value, value == NULL ? 0 : strlen(value)};
    return value != NULL;
}

static void note(void *stream, const char *name, size_t name_size, const char *value, size_t value_size) {
    Stream *one = stream;
    size_t size = strlen(one->headers);
    snprintf(one->headers + size, sizeof one->headers - size, "%.*s: %.*s\n", (int)name_size, name, (int)value_size, value);
}

bool ENVOY(add_header)(void *stream, int kind, Text name, Text value) {
    assert(kind == RESPONSE_HEADERS);
    note(stream, name.data, name.size, value.data, value.size);
    return true;
}

void ENVOY(send_response)(void *stream, uint32_t status, Header *headers, size_t count, Text body, Text details) {
    (void)body, (void)details;
    Stream *one = stream;
    assert(one->status == 0);
    one->status = (int)status;
    for (size_t i = 0; i < count; i++) {
        note(stream, headers[i].name, headers[i].name_size, headers[i].value, headers[i].value_size);
    }
    envoy_dynamic_module_on_http_filter_response_headers(stream, one->filter, false);
}

void ENVOY(filter_continue_decoding)(void *stream) {
    assert(((Stream *)stream)->status == 0);
    ((Stream *)stream)->status = 1;
}

void *ENVOY(filter_scheduler_new)(void *stream) { return stream; }
void ENVOY(filter_scheduler_delete)(void *scheduler) { (void)scheduler; }
void *ENVOY(filter_config_scheduler_new)(void *config) { return config; }
void ENVOY(filter_config_scheduler_delete)(void *scheduler) { (void)scheduler; }

void ENVOY(filter_scheduler_commit)(void *scheduler, uint64_t event) {
    (void)event;
    assert(scheduled_count < sizeof scheduled / sizeof *scheduled);
    scheduled[scheduled_count++] = scheduler;
}

void ENVOY(filter_config_scheduler_commit)(void *scheduler, uint64_t event) {
    (void)scheduler;
    works |= event == WORK;
}

static int call(Stream *stream, uint64_t *id, Header *headers, Text body) {
    static uint64_t next;
    assert(call_count < sizeof calls / sizeof *calls);
    *id = ++next;
    Call *one = &calls[call_count++];
    *one = (Call){.id = *id, .stream = stream, .is_grant = strstr(headers[1].value, "/Grant") != NULL};
    put(&one->body, body.data, body.size);
    return 0;
}

int ENVOY(filter_http_callout)(void *stream, uint64_t *id, Text cluster, Header *headers, size_t count, Text body, uint64_t ms) {
    (void)cluster, (void)count, (void)ms;
    return call(stream, id, headers, body);
}

int ENVOY(filter_config_http_callout)(void *envoy, uint64_t *id, Text cluster, Header *headers, size_t count, Text body, uint64_t ms) {
    (void)envoy, (void)cluster, (void)count, (void)ms;
    return call(NULL, id, headers, body);
}

static const Config *config;

static void start(const char *text) {
    config = envoy_dynamic_module_on_http_filter_config_new(&config, TEXT("grants"), (Text){text, strlen(text)});
}

static void end_stream(Stream *stream) {
    envoy_dynamic_module_on_http_filter_stream_complete(stream, stream->filter);
    envoy_dynamic_module_on_http_filter_destroy(stream->filter);
    for (size_t i = 0; i < call_count; i++) {
        if (calls[i].stream == stream) {
            free(calls[i].body.data);
            calls[i--] = calls[--call_count];
        }
    }
    for (size_t i = 0; i < scheduled_count; i++) {
        if (scheduled[i] == stream) {
            scheduled[i--] = scheduled[--scheduled_count];
        }
    }
}

static void end(void) {
    envoy_dynamic_module_on_http_filter_config_destroy(config);
    for (; call_count > 0; call_count--) {
        free(calls[call_count - 1].body.data);
    }
    works = false;
    scheduled_count = 0;
}

/* What was scheduled, and until none is. */
static void settle(void) {
    while (works || scheduled_count > 0) {
        if (works) {
            works = false;
            envoy_dynamic_module_on_http_filter_config_scheduled(NULL, config, WORK);
        } else {
            Stream *stream = scheduled[--scheduled_count];
            envoy_dynamic_module_on_http_filter_scheduled(stream, stream->filter, WORK);
        }
    }
}

static void pass(int64_t time) {
    for (; time > 0; time -= TICK) {
        moment += TICK;
        envoy_dynamic_module_on_http_filter_config_scheduled(NULL, config, EXAMINE);
        settle();
    }
}

static void begin_request(Stream *stream) {
    stream->status = 0;
    stream->headers[0] = 0;
    stream->filter = envoy_dynamic_module_on_http_filter_new(config, stream);
    if (envoy_dynamic_module_on_http_filter_request_headers(stream, stream->filter, true) == CONTINUE) {
        stream->status = 1;
    }
    settle();
}

/* ---- The service ---- */

static void put_duration(Out *out, int field, int64_t time) {
    Out one = {0};
    put_varint(&one, 8), put_varint(&one, (uint64_t)(time / SECOND));
    put_varint(&one, 16), put_varint(&one, (uint64_t)(time % SECOND));
    put_bytes(out, field, one.data, one.size);
    free(one.data);
}

/* The decision by a limit `all` of 20; on nothing for an unknown key. */
static void put_decision(Out *out, bool allowed, int reason, int64_t remaining) {
    put_number(out, 1, allowed);
    put_number(out, 2, (uint64_t)reason);
    if (reason != KEY_UNKNOWN) {
        put_bytes(out, 4, "key", 3);
    }
    if (reason <= OVER_LIMIT) {
        Out limit = {0};
        put_bytes(&limit, 1, "all", 3);
        put_number(&limit, 2, 20);
        put_duration(&limit, 4, 3 * SECOND);
        put_duration(&limit, 8, 10 * SECOND);
        put_bytes(out, 7, "all", 3);
        put_number(out, 8, (uint64_t)remaining);
        put_bytes(out, 10, limit.data, limit.size);
        free(limit.data);
    }
    if (reason == OVER_LIMIT) {
        put_duration(out, 9, SECOND);
    }
}

static void respond_to(size_t index, int code, const Out *body) {
    Call one = calls[index];
    char number[8];
    snprintf(number, sizeof number, "%d", code);
    Header headers[] = {{":status", 7, "200", 3}, {"grpc-status", 11, number, strlen(number)}};
    Text chunks[] = {{body->data, body->size / 2}, {body->data + body->size / 2, body->size - body->size / 2}};
    memmove(&calls[index], &calls[index + 1], (--call_count - index) * sizeof *calls);
    if (one.stream != NULL) {
        envoy_dynamic_module_on_http_filter_http_callout_done(one.stream, one.stream->filter, one.id, 0, headers, 2, chunks, 2);
    } else {
        envoy_dynamic_module_on_http_filter_config_http_callout_done(NULL, config, one.id, 0, headers, 2, chunks, 2);
    }
    free(one.body.data);
    settle();
}

/* The first call that is under way gets this code, or a decision, and GRANTED units if it is a Grant. */
static void answer(int code, bool allowed, int reason, int64_t granted, int64_t remaining) {
    Out out = {0};
    assert(call_count > 0);
    begin_message(&out);
    if (calls[0].is_grant) {
        Out decision = {0};
        put_decision(&decision, allowed, reason, remaining);
        put_number(&out, 2, (uint64_t)granted);
        put_duration(&out, granted > 0 ? 3 : 4, 200 * MS);
        put_bytes(&out, 6, decision.data, decision.size);
        put_bytes(&out, 7, "/a", prefix);
        put_number(&out, 8, !keeps_returns);
        free(decision.data);
    } else {
        put_decision(&out, allowed, reason, remaining);
    }
    end_message(&out);
    respond_to(0, code, &out);
    free(out.data);
}

/* A request of a key that ends at once, or when its calls have these answers. Returns its status. */
static int request(Stream *stream, int code, bool allowed, int reason, int64_t granted) {
    begin_request(stream);
    while (stream->status == 0) {
        answer(code, allowed, reason, granted, granted > 0 ? 10 : 0);
    }
    end_stream(stream);
    return stream->status;
}

static int passes(Stream *stream) { return request(stream, 0, true, WITHIN_LIMIT, 5); }

static void check(long long found, long long wanted, const char *what) {
    if (found != wanted) {
        fprintf(stderr, "%s: %lld and not %lld\n", what, found, wanted);
        exit(1);
    }
}

#define EQUAL(found, wanted) check(found, wanted, #found)

/* ---- Cases ---- */

/* Only a failure of the service lets requests pass, and that only if it is configured. */
static void errors(void) {
    const int codes[] = {UNAVAILABLE, DEADLINE_EXCEEDED, 7 /* PERMISSION_DENIED */, 8, 16 /* UNAUTHENTICATED */};
    for (int i = 0; i < 10; i++) {
        int status = i % 5 < 2 && i < 5 ? 1 : 503;
        Stream one = {.key = "key", .path = "/"};
        start(i < 5 ? "on_failure allow" : "on_failure deny");
        EQUAL(request(&one, codes[i % 5], false, 0, 0), status); /* of CheckLimit */
        EQUAL(request(&one, codes[i % 5], false, 0, 0), status); /* of Grant */
        EQUAL(request(&one, codes[i % 5], false, 0, 0), status); /* soon after that */
        end();
    }
}

/* The first varint of a field of a request, 0 if there is none. */
static int64_t number_in(In in, int wanted) {
    uint64_t number = 0;
    In bytes;
    for (int field; (field = next_field(&in, &number, &bytes)) != 0;) {
        if (field == wanted) {
            return (int64_t)number;
        }
    }
    return 0;
}

/* The I-th of the parts of a message that are such a field, without bytes if there are fewer. */
static In part_of(In in, int wanted, int i) {
    uint64_t number;
    In bytes;
    for (int field; (field = next_field(&in, &number, &bytes)) != 0;) {
        if (field == wanted && i-- == 0) {
            return bytes;
        }
    }
    return (In){NULL, NULL};
}

static In called(size_t i) {
    assert(i < call_count);
    return (In){(unsigned char *)calls[i].body.data + 5, (unsigned char *)calls[i].body.data + calls[i].body.size};
}

enum { WANTS = 6, RETURNS = 7, UNUSED_UNITS = 2, SPENT = 3, SPENT_ALLOWED = 2, SPENT_DENIED = 3 };

/* Units that nobody spends are returned, with what was spent of them, and again when that was lost. */
static void idle(void) {
    Stream one = {.key = "key", .path = "/"};
    start("");
    EQUAL(passes(&one), 1);
    EQUAL(passes(&one), 1);
    EQUAL(passes(&one), 1);
    pass(SECOND);
    for (int i = 0; i < 2; i++) {
        EQUAL(call_count, 1);
        EQUAL(number_in(called(0), WANTS), 0);
        EQUAL(number_in(part_of(called(0), RETURNS, 0), UNUSED_UNITS), 3);
        EQUAL(number_in(part_of(part_of(called(0), RETURNS, 0), SPENT, 0), SPENT_ALLOWED), 2);
        answer(i == 0 ? UNAVAILABLE : 0, false, 0, 0, 0);
        pass(2 * SECOND);
    }
    EQUAL(call_count, 0);
    end();
}

/* A call that is denied while it waits is reported, though none comes after it, and again when that failed. */
static void denied(void) {
    Stream one = {.key = "key", .path = "/"};
    start("");
    EQUAL(passes(&one), 1);
    EQUAL(request(&one, 0, false, OVER_LIMIT, 0), 429);
    pass(REPORT);
    for (int i = 0; i < 2; i++) {
        EQUAL(call_count, 1);
        EQUAL(number_in(part_of(part_of(called(0), RETURNS, 0), SPENT, 0), SPENT_DENIED), 1);
        answer(i == 0 ? UNAVAILABLE : 0, false, 0, 0, 0);
        pass(2 * SECOND);
    }
    pass(FORGET);
    EQUAL(config->keys, 0);
    end();
}

/* The headers are those of the authorization protocol. */
static void headers(void) {
    Stream one = {.path = "/"};
    start("");
    begin_request(&one);
    EQUAL(strcmp(one.headers, "content-type: text/plain\nwww-authenticate: ApiKey\n"), 0);
    end_stream(&one);
    one.key = "key";
    EQUAL(passes(&one), 1);
    for (int i = 0; i < 2; i++) { /* by the service, and by what is known of it */
        EQUAL(request(&one, 0, false, OVER_LIMIT, 0), 429);
        EQUAL(strcmp(one.headers, "content-type: text/plain\nretry-after: 1\nx-ratelimit-limit: 20\nx-ratelimit-remaining: 0\n"
                                  "x-ratelimit-reset: 1\n"), 0);
        moment += 100 * MS;
    }
    end();
}

/* What cannot be used is no configuration, and nothing of it is used. */
static void configuration(void) {
    static const char *const wrong[] = {"on_failure perhaps", "timeout_ms 0", "timeout_ms", "colour red", "header "};
    char token[300];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        start(wrong[i]);
        EQUAL(config == NULL, true);
    }
    memset(token, 'x', sizeof token - 1);
    token[sizeof token - 1] = 0;
    setenv("RATELIMIT_TOKEN", token, 1);
    start("");
    EQUAL(config == NULL, true);
    setenv("RATELIMIT_TOKEN", "of the environment", 1);
    start("token of the file\n\ntimeout_ms 50");
    EQUAL(strcmp(config->token, "Bearer of the file"), 0);
    end();
}

/* The calls that a request reports as allowed. No request reports more than the service takes. */
static int64_t reported_in(In request) {
    int64_t allowed = 0;
    int lines = 0;
    In one, line;
    for (int i = 0; (one = part_of(request, RETURNS, i)).at != NULL; i++) {
        for (int j = 0; (line = part_of(one, SPENT, j)).at != NULL; j++) {
            allowed += number_in(line, SPENT_ALLOWED);
            lines++;
        }
    }
    EQUAL(lines <= 128 && request.end - request.at < 65536, true);
    return allowed;
}

/* What could not be reported is reported later, however often that fails. */
static void reports(void) {
    Stream one = {.key = "key"};
    char path[32];
    int64_t reported = 0;
    start("");
    keeps_returns = true;
    for (int round = 0; round < 4; round++) {
        one.path = "/";
        EQUAL(passes(&one), 1);
        begin_request(&one);
        reported_in(called(0));
        answer(0, true, WITHIN_LIMIT, 100, 10);
        end_stream(&one);
        for (int i = 1; i < MAX_LINES; i++) {
            snprintf(path, sizeof path, "/%d", i);
            one.path = path;
            EQUAL(passes(&one), 1);
        }
        pass(2 * SECOND);
        reported_in(called(0));
        answer(UNAVAILABLE, false, 0, 0, 0);
        pass(AWAY);
    }
    keeps_returns = false;
    for (int i = 0; i < 3; i++) {
        pass(REPORT);
        if (call_count > 0) {
            reported += reported_in(called(0));
            answer(0, false, 0, 0, 0);
        }
    }
    EQUAL(reported, 4 * MAX_LINES);
    end();
}

/* A service that has no Grant checks each call. */
static void without_grants(void) {
    Stream one = {.key = "key", .path = "/"};
    start("on_failure allow");
    EQUAL(passes(&one), 1);
    begin_request(&one);
    EQUAL(calls[0].is_grant, true);
    answer(UNIMPLEMENTED, false, 0, 0, 0);
    EQUAL(calls[0].is_grant, false);
    answer(0, false, OVER_LIMIT, 0, 0);
    EQUAL(one.status, 429);
    end_stream(&one);
    end();
}

/* Made up keys take no room that grows, nor that of a key which the service names. */
static void strangers(void) {
    Stream one = {.path = "/"};
    char key[32];
    start("");
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof key, "made-up-%d", i);
        one.key = key;
        EQUAL(request(&one, 0, false, KEY_UNKNOWN, 0), 401);
        EQUAL(request(&one, 0, false, KEY_UNKNOWN, 0), 401);
    }
    EQUAL(config->keys, SHARDS * MAX_STRANGERS);
    for (int i = 0; i < 2 * SHARDS * MAX_STRANGERS; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        EQUAL(passes(&one), 1);
        begin_request(&one);
        EQUAL(calls[0].is_grant, true);
        answer(0, true, WITHIN_LIMIT, 5, 10);
        end_stream(&one);
    }
    EQUAL(config->keys, 3 * SHARDS * MAX_STRANGERS);
    for (int i = 0; i < 2; i++) { /* what they know of each is reported, and they are forgotten */
        pass(10 * SECOND);
        while (call_count > 0) {
            answer(0, true, 0, 0, 0);
        }
    }
    pass(2 * SECOND);
    EQUAL(config->keys, 0);
    for (int i = 0; i < SHARDS; i++) {
        EQUAL(config->shard[i].strangers, 0);
    }
    end();
}

static uint64_t chance(uint64_t below) { /* xorshift: the same in each run */
    static uint64_t state = 88172645463325252;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % below;
}

/* Bytes that are no message, or nearly one. */
static Out broken(void) {
    static const uint64_t bounds[] = {0, 1, 127, 128, INT32_MAX, UINT32_MAX, INT64_MAX, (uint64_t)INT64_MIN, UINT64_MAX};
    Out out = {0};
    for (uint64_t parts = chance(6); parts > 0; parts--) {
        put_varint(&out, chance(12) << 3 | chance(4));
        switch (chance(4)) {
        case 0: put_varint(&out, bounds[chance(9)]); break;
        case 1: put_duration(&out, (int)chance(12), (int64_t)bounds[chance(9)]); break;
        case 2:
            if (chance(2) == 0) {
                Out part = broken();
                put_bytes(&out, (int)chance(12), part.data, part.size);
                free(part.data);
            }
            break;
        default: put(&out, &bounds[chance(9)], chance(9));
        }
    }
    return out;
}

/* A decoder reads what it has, and all that it reads is within bounds. */
static void decoder(void) {
    for (int i = 0; i < 100000; i++) {
        Out out = broken();
        char *bytes = memcpy(malloc(out.size + 1), out.size > 0 ? out.data : "", out.size); /* what is after them is no part */
        GrantResponse response;
        bytes = realloc(bytes, out.size > 0 ? out.size : 1);
        read_grant_response((In){(unsigned char *)bytes, (unsigned char *)bytes + out.size}, &response);
        const Decision *decision = &response.decision;
        EQUAL(response.granted >= 0 && response.granted <= MAX_UNITS, true);
        EQUAL(response.ttl >= 0 && response.ttl <= MAX_TTL && response.ask_again_after >= 0, true);
        EQUAL(decision->limit >= 0 && decision->remaining >= 0 && decision->reset >= 0 && decision->window >= 0, true);
        EQUAL(strlen(decision->name) < MAX_NAME, true);
        free(bytes);
        free(out.data);
    }
}

/* Requests, responses, failures, ends of streams and of time, as they come. */
static void anything(void) {
    static const char *const paths[] = {"/", "/a", "/a/b", "/c?d", "/e", "/f/g/h"};
    static Stream streams[64];
    char keys[6][8];
    for (int round = 0; round < 40; round++) {
        start(round % 2 == 0 ? "on_failure allow" : "on_failure deny");
        for (int i = 0; i < 1000; i++) {
            Stream *one = &streams[chance(64)];
            uint64_t key = chance(6);
            switch (chance(8)) {
            case 0:
            case 1:
            case 2:
            case 3:
                if (one->filter == NULL) {
                    snprintf(keys[key], sizeof keys[key], "key-%d", (int)key);
                    one->key = keys[key];
                    one->path = paths[chance(6)];
                    begin_request(one);
                }
                break;
            case 4:
                if (one->filter != NULL) {
                    end_stream(one);
                    one->filter = NULL;
                }
                break;
            case 5: pass((int64_t)chance(20) * TICK); break;
            default:
                if (call_count > 0 && chance(4) == 0) {
                    Out out = {0}, part = broken();
                    begin_message(&out);
                    put(&out, part.data, part.size);
                    end_message(&out);
                    respond_to(chance(call_count), (int)chance(17) * (int)chance(2), &out);
                    free(out.data);
                    free(part.data);
                } else if (call_count > 0) {
                    keeps_returns = chance(4) == 0;
                    prefix = chance(3);
                    answer(0, chance(2) == 0, (int)chance(10), (int64_t)(chance(2) * chance(30)), (int64_t)chance(20));
                }
            }
        }
        for (int i = 0; i < 64; i++) {
            if (streams[i].filter != NULL) {
                end_stream(&streams[i]);
                streams[i].filter = NULL;
            }
        }
        end();
    }
}

int main(int count, char **names) {
    const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"errors", errors},
        {"without_grants", without_grants},
        {"idle", idle},
        {"configuration", configuration},
        {"denied", denied},
        {"headers", headers},
        {"reports", reports},
        {"strangers", strangers},
        {"decoder", decoder},
        {"anything", anything},
    };
    for (size_t i = 0; count == 2 && i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(names[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    }
    return 2;
}
