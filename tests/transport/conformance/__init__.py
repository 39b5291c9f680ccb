"""One suite for both doors: what a caller sees must not depend on how the call came in."""
