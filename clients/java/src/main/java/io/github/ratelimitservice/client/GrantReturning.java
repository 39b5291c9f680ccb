package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantReturn;
import io.github.ratelimitservice.client.v1.GrantSpent;
import java.util.ArrayList;
import java.util.List;

/** A grant that is returned until the service has done it. Guarded by the lock of its key. */
final class GrantReturning {
    final String grantId;
    final long unused;
    final long endedAt;
    private final List<GrantSpent> spent = new ArrayList<>();

    /** Whether it stays as it is: what it reports is counted once. */
    private boolean wasSent;

    GrantReturning(String grantId, long unused, long endedAt) {
        this.grantId = grantId;
        this.unused = unused;
        this.endedAt = endedAt;
    }

    boolean wasSent() {
        return wasSent;
    }

    /** How many resources it reports. */
    int reports() {
        return spent.size();
    }

    void report(List<GrantSpent> more) {
        spent.addAll(more);
    }

    /** Whether nothing is lost without it. */
    boolean saysNothing() {
        return !wasSent && unused == 0 && spent.isEmpty();
    }

    /** As it is sent, from now on. */
    GrantReturn send() {
        wasSent = true;
        return GrantReturn.newBuilder().setGrantId(grantId).setUnused(unused).addAllSpent(spent).build();
    }
}
