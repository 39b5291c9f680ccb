"""What admins do: keys, plans, overrides, descriptor rules, tokens and the audit log; pure, one file per noun."""
