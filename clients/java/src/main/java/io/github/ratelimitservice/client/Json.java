package io.github.ratelimitservice.client;

/** Texts as JSON has them. */
final class Json {
    private Json() {}

    /** The text in quotation marks, all in ASCII. */
    static String quoted(String text) {
        StringBuilder quoted = new StringBuilder(text.length() + 2).append('"');
        for (char unit : text.toCharArray()) {
            switch (unit) {
                case '"', '\\' -> quoted.append('\\').append(unit);
                case '\n' -> quoted.append("\\n");
                case '\r' -> quoted.append("\\r");
                case '\t' -> quoted.append("\\t");
                default -> {
                    boolean isPrintable = unit >= ' ' && unit <= '~';
                    quoted.append(isPrintable ? String.valueOf(unit) : String.format("\\u%04x", (int) unit));
                }
            }
        }
        return quoted.append('"').toString();
    }
}
