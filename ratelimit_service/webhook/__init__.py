"""The webhook's HTTP client: one POST to an address that was checked, and to no other."""
