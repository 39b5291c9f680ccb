package io.github.ratelimitservice.client;

import java.math.BigInteger;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Consumer;

/** The lines of a key. It does not change: whoever adds one makes another. */
final class GrantLines {
    static final GrantLines NONE = new GrantLines(new GrantLine[0], Map.of());

    /** How many lines are compared one by one, which takes less time than a map. */
    private static final int FEW = 4;

    private record Name(String resource, BigInteger cost) {}

    private final GrantLine[] few;
    private final Map<Name, GrantLine> many;

    private GrantLines(GrantLine[] few, Map<Name, GrantLine> many) {
        this.few = few;
        this.many = many;
    }

    /** The line of such calls. Null if there is none. */
    GrantLine find(String resource, BigInteger cost) {
        for (GrantLine line : few) {
            if (line.cost.equals(cost) && line.resource.equals(resource)) {
                return line;
            }
        }
        return many.isEmpty() ? null : many.get(new Name(resource, cost));
    }

    int size() {
        return few.length + many.size();
    }

    void forEach(Consumer<GrantLine> visit) {
        for (GrantLine line : few) {
            visit.accept(line);
        }
        many.values().forEach(visit);
    }

    /** These and one more. */
    GrantLines with(GrantLine more) {
        if (many.isEmpty() && few.length < FEW) {
            GrantLine[] all = Arrays.copyOf(few, few.length + 1);
            all[few.length] = more;
            return new GrantLines(all, many);
        }
        Map<Name, GrantLine> all = new HashMap<>(many);
        for (GrantLine line : few) {
            all.put(new Name(line.resource, line.cost), line);
        }
        all.put(new Name(more.resource, more.cost), more);
        return new GrantLines(NONE.few, all);
    }
}
