/* A service that keeps accounts, and loses requests and responses: what was granted is spent or returned, and all is reported. */
#pragma once
#include "service.h"

enum { MAX_GRANTS = 4096, STREAMS = 64 };

typedef struct {
    char id[32];
    int64_t granted, unused;
    bool is_returned;
} Account;

static Account accounts[MAX_GRANTS];
static int account_count;
static int64_t reported_allowed, reported_denied;

static Account *account_of(In id) {
    for (int i = account_count; i-- > 0;) {
        if (memcmp(accounts[i].id, id.at, 32) == 0) {
            return &accounts[i];
        }
    }
    assert(account_count < MAX_GRANTS);
    Account *more = &accounts[account_count++];
    *more = (Account){0};
    memcpy(more->id, id.at, 32);
    return more;
}

static void take_returns(In request) {
    In one, line;
    for (int i = 0; (one = part_of(request, RETURNS, i)).at != NULL; i++) {
        Account *account = account_of(part_of(one, GRANT_ID, 0));
        if (account->is_returned) {
            continue;
        }
        account->is_returned = true;
        account->unused = least(number_in(one, UNUSED_UNITS), account->granted);
        for (int j = 0; (line = part_of(one, SPENT, j)).at != NULL; j++) {
            reported_allowed += number_in(line, SPENT_ALLOWED);
            reported_denied += number_in(line, SPENT_DENIED);
        }
    }
}

static void put_grant(Out *out, In request) {
    Account *account = account_of(part_of(request, GRANT_ID, 0));
    uint64_t kind = chance(10);
    Out decision = {0};
    if (account->is_returned) {
        return; /* the id is used up */
    }
    if (kind == 0) {
        put_duration(out, 4, SECOND);
        put_number(out, 5, chance(2) == 0 ? STORE_UNAVAILABLE : 1);
        return;
    }
    if (kind < 7) {
        account->granted = 1 + (int64_t)chance((uint64_t)number_in(request, WANTS));
        put_number(out, 2, (uint64_t)account->granted);
        put_duration(out, 3, (int64_t)(10 + chance(900)) * MS);
        if (chance(2) == 0) {
            put_bytes(out, 7, "/a", chance(3));
        }
    } else {
        put_duration(out, 4, (int64_t)(1 + chance(1500)) * MS);
    }
    put_decision(&decision, kind < 7, kind < 7 ? WITHIN_LIMIT : OVER_LIMIT, kind < 7 ? (int64_t)chance(30) : 0);
    put_bytes(out, 6, decision.data, decision.size);
    free(decision.data);
}

/* Respond to the I-th call, or lose it, before or after it was served. */
static void serve_or_lose(size_t i, bool loses) {
    In request = called(i);
    bool is_lost = loses && chance(6) == 0, is_served = !is_lost || chance(2) == 0, keeps = loses && chance(8) == 0;
    Out out = {0};
    begin_message(&out);
    if (!calls[i].is_grant) {
        put_decision(&out, true, WITHIN_LIMIT, 5);
    } else if (is_served) {
        for (size_t j = 0; j < call_count; j++) { /* one is under way for a key */
            In key = part_of(request, KEY, 0), other = part_of(called(j), KEY, 0);
            EQUAL(j != i && calls[j].is_grant && memcmp(key.at, other.at, (size_t)(key.end - key.at)) == 0, false);
        }
        if (!keeps) {
            take_returns(request);
        }
        if (number_in(request, WANTS) > 0) {
            put_grant(&out, request);
        }
        put_number(&out, 8, !keeps);
    }
    end_message(&out);
    respond_to(i, is_lost ? UNAVAILABLE : 0, &out);
    free(out.data);
}

static void start_or_end(Stream *one, char *key) {
    static const char *const paths[] = {"/", "/a", "/a/b", "/c?d", "/e", "/f/g/h"};
    if (one->filter == NULL) {
        snprintf(key, 8, "key-%d", (int)chance(5));
        one->key = key;
        one->path = paths[chance(6)];
        begin_request(one);
    } else if (one->status != 0 || chance(20) == 0) {
        end_stream(one);
        one->filter = NULL;
    }
}

static void keep_accounts(void) {
    static Stream streams[STREAMS];
    static char keys[STREAMS][8];
    start("on_failure deny");
    account_count = 0;
    reported_allowed = reported_denied = 0;
    for (int i = 0; i < 3000; i++) {
        uint64_t stream = chance(STREAMS), kind = chance(8);
        if (kind < 5) {
            start_or_end(&streams[stream], keys[stream]);
        } else if (kind == 5 && chance(4) == 0) {
            pass((int64_t)chance(20) * TICK);
        } else if (kind == 5) {
            moment += (int64_t)chance(3) * MS;
        } else if (call_count > 0) {
            serve_or_lose(chance(call_count), true);
        }
    }
    for (int i = 0; i < 30; i++, pass(SECOND)) { /* all comes to its end */
        while (call_count > 0) {
            serve_or_lose(0, false);
        }
    }
    int64_t spent = 0;
    for (int i = 0; i < account_count; i++) {
        spent += accounts[i].granted - accounts[i].unused;
    }
    EQUAL(spent, allowed_here);
    EQUAL(reported_allowed, allowed_here);
    EQUAL(reported_denied, denied_here);
    EQUAL(config->keys, 0);
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].filter != NULL) {
            EQUAL(streams[i].status == 0, false);
            end_stream(&streams[i]);
            streams[i].filter = NULL;
        }
    }
    end();
}
