/* What is expected of the module, in cases: test_module_alone.py builds them with sanitizers, and runs one at a time. */
#include "accounts.h"
#include "service.h"

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

/* Units may be spent for their time from before they were asked for. */
static void expiry(void) {
    Stream one = {.key = "key", .path = "/"};
    start("");
    EQUAL(passes(&one), 1);
    begin_request(&one);
    moment += 150 * MS;
    answer(0, true, WITHIN_LIMIT, 5, 10); /* for 200 ms */
    end_stream(&one);
    moment += 50 * MS - 1;
    begin_request(&one);
    EQUAL(one.status, 1);
    end_stream(&one);
    moment += 1;
    begin_request(&one);
    EQUAL(one.status, 0);
    EQUAL(number_in(part_of(called(0), RETURNS, 0), UNUSED_UNITS), 3);
    end_stream(&one);
    end();
}

/* Those that wait are decided in their order, and those for which the limit has nothing are denied. */
static void order(void) {
    Stream some[4];
    const int statuses[] = {1, 1, 0, 429};
    start("");
    for (int i = 0; i < 4; i++) {
        some[i] = (Stream){.key = "key", .path = "/"};
    }
    EQUAL(passes(&some[0]), 1);
    begin_request(&some[0]);
    answer(0, true, WITHIN_LIMIT, 1, 10);
    end_stream(&some[0]);
    begin_request(&some[0]); /* for which units are asked at once, without the others */
    for (int i = 1; i < 4; i++) {
        begin_request(&some[i]);
    }
    answer(0, true, WITHIN_LIMIT, 1, 10);
    EQUAL(some[0].status, 1);
    EQUAL(number_in(called(0), WANTS) >= 3, true);
    end_stream(&some[0]);
    begin_request(&some[0]); /* after that was sent */
    answer(0, true, WITHIN_LIMIT, 1, 1);
    for (int i = 1; i < 4; i++) {
        EQUAL(some[i].status, statuses[i]);
    }
    EQUAL(some[0].status, 0);
    for (int i = 0; i < 4; i++) {
        end_stream(&some[i]);
    }
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

static void accounting(void) {
    for (int i = 0; i < 20; i++) {
        keep_accounts();
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
        {"expiry", expiry},
        {"order", order},
        {"configuration", configuration},
        {"denied", denied},
        {"headers", headers},
        {"reports", reports},
        {"strangers", strangers},
        {"decoder", decoder},
        {"anything", anything},
        {"accounting", accounting},
    };
    for (size_t i = 0; count == 2 && i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(names[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    }
    return 2;
}
