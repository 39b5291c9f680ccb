"""Managing keys, plans, overrides and admin tokens: pure, without any transport or database."""
