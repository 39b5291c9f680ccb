"""Generated. Run `make clients`."""
