"""Which calls begin, and which are refused, when more arrive than can be decided in time (docs/adr/0017)."""
