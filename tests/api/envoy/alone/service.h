/* Responses of the service, and what it is asked. */
#pragma once
#include "envoy.h"

static bool keeps_returns; /* whether it does not make returns */
static size_t prefix;      /* so much of `/a` its grants are good for */

static uint64_t chance(uint64_t below) { /* xorshift: the same in each run */
    static uint64_t state = 88172645463325252;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % below;
}

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

/* Fields of requests, of a return, and of what it reports. */
enum { GRANT_ID = 1, KEY = 2, WANTS = 6, RETURNS = 7, UNUSED_UNITS = 2, SPENT = 3, SPENT_ALLOWED = 2, SPENT_DENIED = 3 };

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
