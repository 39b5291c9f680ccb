package io.github.ratelimitservice.client.contract;

import java.util.ArrayList;
import java.util.List;
import java.util.ResourceBundle;

/** Keeps the texts of warnings. */
final class WarningLogger implements System.Logger {
    private final List<String> texts = new ArrayList<>();

    /** Those since the last call. */
    synchronized List<String> take() {
        List<String> taken = List.copyOf(texts);
        texts.clear();
        return taken;
    }

    @Override
    public String getName() {
        return "test";
    }

    @Override
    public boolean isLoggable(Level level) {
        return true;
    }

    @Override
    public void log(Level level, ResourceBundle bundle, String text, Throwable thrown) {
        log(level, bundle, text);
    }

    @Override
    public synchronized void log(Level level, ResourceBundle bundle, String text, Object... parameters) {
        if (level != Level.WARNING) {
            throw new AssertionError("logged at level " + level + ": " + text);
        }
        texts.add(text);
    }
}
