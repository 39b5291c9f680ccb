"""Tests of the grpcio transport, with a real server in this process, a real Postgres and a real Valkey."""
