package io.github.ratelimitservice.client;

/** Who decided. */
public enum Origin {
    /** The service responded. */
    SERVICE,
    /** The client had cached a denial of the service; nothing was sent. */
    CACHE,
    /** The service failed; the client decided by its option {@code failOpen}. */
    FALLBACK
}
