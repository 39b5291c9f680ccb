"""The command line: `ratelimit-service`."""
