package io.github.ratelimitservice.client.testing;

import com.google.protobuf.Duration;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.LimitResult;
import io.grpc.Status;

/** Responses of the service that several tests script. */
public final class Responses {
    /** The wait of {@link #OVER}: 1.5 s. */
    private static final Duration WAIT = Duration.newBuilder().setSeconds(1).setNanos(500_000_000).build();

    private static final LimitResult.Builder BURST = LimitResult.newBuilder()
            .setName("burst")
            .setLimit(20)
            .setWindow(Duration.newBuilder().setSeconds(2));

    public static final Response ALLOW = Response.decide(CheckLimitResponse.newBuilder()
            .setAllowed(true)
            .setReason(CheckLimitResponse.Reason.WITHIN_LIMIT)
            .setSource(CheckLimitResponse.Source.STORE)
            .setLimit("burst")
            .setRemaining(19)
            .addLimits(BURST.clone().setRemaining(19))
            .build());

    public static final Response OVER = Response.decide(CheckLimitResponse.newBuilder()
            .setReason(CheckLimitResponse.Reason.OVER_LIMIT)
            .setSource(CheckLimitResponse.Source.STORE)
            .setLimit("burst")
            .setRetryAfter(WAIT)
            .addLimits(BURST.clone().setWouldDeny(true).setRetryAfter(WAIT))
            .build());

    public static final Response RESERVED = Response.decide(CheckLimitResponse.newBuilder()
            .setAllowed(true)
            .setReason(CheckLimitResponse.Reason.WITHIN_LIMIT)
            .setReservationId("rsv_1.c2FtcGxl")
            .build());

    public static final Response UNAVAILABLE = Response.fail(Status.UNAVAILABLE.withDescription("draining"));

    public static final Response WRONG_TOKEN =
            Response.fail(Status.UNAUTHENTICATED.withDescription("the token is not known"));

    private Responses() {}
}
