"""The decision for descriptors, as Envoy's rate limit protocol has them: pure, like the rest of `decision`."""
