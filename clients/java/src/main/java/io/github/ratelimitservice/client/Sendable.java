package io.github.ratelimitservice.client;

import java.math.BigInteger;

/**
 * What can be sent. The encoder would replace half of a surrogate pair, which would merge many resources into one, and an oversized
 * text would use up the deadline, and so fail open for the callers of a gateway.
 */
final class Sendable {
    /** The service rejects larger messages. */
    private static final int MAX_MESSAGE_BYTES = 64 * 1024;

    private static final long MAX_COST = 9_007_199_254L;

    private Sendable() {}

    /** Throws RateLimitException for a text that has no encoding in UTF-8, or does not fit a message. */
    static void checkText(String field, String text) {
        long bytes = 0;
        for (int i = 0; i < text.length(); i++) {
            char unit = text.charAt(i);
            if (unit < 0x80) {
                bytes += 1;
            } else if (unit < 0x800) {
                bytes += 2;
            } else if (!Character.isSurrogate(unit)) {
                bytes += 3;
            } else if (Character.isHighSurrogate(unit) && i + 1 < text.length()
                    && Character.isLowSurrogate(text.charAt(i + 1))) {
                bytes += 4;
                i++;
            } else {
                throw invalidUtf8(field);
            }
        }
        if (bytes > MAX_MESSAGE_BYTES) {
            throw RateLimitException.invalidField(
                    field, "has " + bytes + " bytes; a whole message has at most " + MAX_MESSAGE_BYTES);
        }
    }

    /** Whether a text has so many bytes at most, all of them UTF-8, and no control characters. */
    static boolean isPlain(String text, int maxBytes) {
        long bytes = text.length();
        for (int i = 0; i < text.length() && bytes <= maxBytes; i++) {
            char unit = text.charAt(i);
            if (Character.isISOControl(unit)) {
                return false;
            }
            if (Character.isSurrogate(unit)) {
                if (!Character.isSurrogatePair(unit, i + 1 < text.length() ? text.charAt(i + 1) : unit)) {
                    return false;
                }
                bytes += 2; // 4 for both
                i++;
            } else if (unit >= 0x80) {
                bytes += unit < 0x800 ? 1 : 2;
            }
        }
        return bytes <= maxBytes;
    }

    /** Throws RateLimitException for a cost that is no unsigned integer of 64 bits. */
    static void checkCost(String field, BigInteger cost) {
        if (cost.signum() < 0 || cost.bitLength() > Long.SIZE) {
            throw RateLimitException.invalidField(
                    field, "is " + cost + "; it must be between 0 and " + MAX_COST);
        }
    }

    static RateLimitException invalidUtf8(String field) {
        return RateLimitException.invalidField(field, "is not valid UTF-8");
    }
}
