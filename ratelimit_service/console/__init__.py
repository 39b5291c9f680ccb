"""The console: pages for people, rendered on the server. ADR 0012 says why, and how it is protected."""
