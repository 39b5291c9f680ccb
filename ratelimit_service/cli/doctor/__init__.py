"""`ratelimit-service doctor`: checks settings, stores and ports, and reports what is wrong and what to do."""
