"""`ratelimit-service doctor`: what is wrong with settings, stores and ports, in words."""
