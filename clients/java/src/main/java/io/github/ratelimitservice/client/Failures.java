package io.github.ratelimitservice.client;

/**
 * How many calls failed open and closed, and how many reservations stayed unsettled, since the client was created. For your
 * metrics.
 *
 * @param open how many calls were allowed because the service failed.
 * @param closed how many calls were denied because the service failed.
 * @param unsettled how many reservations could not be settled: the service failed, or their holds had ended.
 */
public record Failures(long open, long closed, long unsettled) {}
