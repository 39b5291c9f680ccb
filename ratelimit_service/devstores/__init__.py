"""A real Postgres and a real Valkey from wheels, for `dev` and for tests."""
