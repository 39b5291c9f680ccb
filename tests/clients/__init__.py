"""Tests of the clients' contract and of the Python client. The other languages test themselves, in clients/."""
