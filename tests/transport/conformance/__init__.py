"""One suite for both transports: what a caller sees must not depend on the transport."""
