"""Several servers of one installation."""
