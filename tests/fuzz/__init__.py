"""Fuzzing: whatever bytes come, no crash, no hang, no INTERNAL, no growth. `make fuzz` runs the long form."""
