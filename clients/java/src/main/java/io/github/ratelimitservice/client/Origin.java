package io.github.ratelimitservice.client;

/** Who decided. */
public enum Origin {
    /** The service responded. */
    SERVICE,
    /** The client had cached a denial of the service; nothing was sent. */
    CACHE,
    /** The service failed; the client decided by its option {@code failOpen}. */
    FALLBACK,
    /** The client allowed the call by a unit that the service had granted to it, in {@link Mode#GRANTED}. */
    GRANT
}
