"""The decision plane without any store or transport."""
