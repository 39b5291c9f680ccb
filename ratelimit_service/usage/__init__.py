"""Usage: what was counted of calls, how it comes into Postgres, and how it is asked for."""
