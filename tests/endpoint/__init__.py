"""The check endpoint without a transport."""
