"""What is recorded of single calls."""
