"""What releases are made of: `make version` and `make dist`."""
