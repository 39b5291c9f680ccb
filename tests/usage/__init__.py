"""Usage: counting, archive, queries and what-if."""
