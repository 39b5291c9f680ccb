package io.github.ratelimitservice.client;

/** What a decision is based on. The constants are in the order of their numbers in the API. */
public enum Source {
    /** Never sent. */
    SOURCE_UNSPECIFIED,
    /** The shared bucket store: exact across all servers. */
    STORE,
    /** The key's policy alone: no bucket was needed. */
    POLICY,
    /** One server alone, because the bucket store was unavailable; or this client alone, because the service was. */
    DEGRADED,
    /** The shared bucket store, while no limit refuses. The limits are what would have been denied. */
    UNENFORCED,
    /** Units that the client holds: it has decided the call by itself, in {@link Mode#GRANTED}. */
    GRANT,
    /** What the shared bucket store replied a second ago at most. Only of a denial. */
    MEMORY,
    /** A source of a newer service. */
    UNRECOGNIZED;

    private static final Source[] BY_NUMBER = values();

    static Source of(int number) {
        return number >= 0 && number < UNRECOGNIZED.ordinal() ? BY_NUMBER[number] : UNRECOGNIZED;
    }
}
