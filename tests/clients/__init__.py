"""Tests of the clients' contract and of the Python client. The tests of the other languages are in clients/."""
