<<<<<<< HEAD
"""Usage: what was counted in the bucket store, moved to the archive exactly once, and kept there for a while."""
=======
"""Usage: what was counted of calls, how it comes into Postgres, and how it is asked for."""
>>>>>>> main
