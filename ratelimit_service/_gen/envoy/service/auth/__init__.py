"""Generated. Run `make proto`."""
