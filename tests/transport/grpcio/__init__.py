"""Tests of the grpcio door, with a real server in this process, a real Postgres and a real Valkey."""
