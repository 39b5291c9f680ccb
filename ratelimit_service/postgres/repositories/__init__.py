"""The control plane's queries, one file per noun."""
