/* The module of deploy/envoy/module, and of Envoy what it calls: in one thread, and by a clock of its own. */
#pragma once
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

typedef struct {
    const char *key, *path; /* NULL if there is none */
    const Filter *filter;
    int status; /* of a response here; 1 if the request goes on, 0 while it is held */
    bool is_checked; /* by a call of its own */
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
static int64_t allowed_here, denied_here; /* requests that had no call of their own */

bool ENVOY(get_header)(void *stream, int kind, Text name, Text *to, size_t index, size_t *count) {
    const char *value = name.data[0] == ':' ? ((Stream *)stream)->path : ((Stream *)stream)->key;
    assert(kind == REQUEST_HEADERS && index == 0);
    if (count != NULL) {
        *count = value != NULL;
    }
    *to = (Text){value, value == NULL ? 0 : strlen(value)};
    return value != NULL;
}

static void decided(Stream *stream, int status) {
    assert(stream->status == 0);
    stream->status = status;
    allowed_here += status == 1 && !stream->is_checked;
    denied_here += status == 429 && !stream->is_checked;
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
    decided(one, (int)status);
    for (size_t i = 0; i < count; i++) {
        note(stream, headers[i].name, headers[i].name_size, headers[i].value, headers[i].value_size);
    }
    envoy_dynamic_module_on_http_filter_response_headers(stream, one->filter, false);
}

void ENVOY(filter_continue_decoding)(void *stream) {
    decided(stream, 1);
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
    if (stream != NULL) {
        stream->is_checked = true;
    }
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
    allowed_here = denied_here = 0;
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
    stream->is_checked = false;
    stream->headers[0] = 0;
    stream->filter = envoy_dynamic_module_on_http_filter_new(config, stream);
    if (envoy_dynamic_module_on_http_filter_request_headers(stream, stream->filter, true) == CONTINUE) {
        decided(stream, 1);
    }
    settle();
}
