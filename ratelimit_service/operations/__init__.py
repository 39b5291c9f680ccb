"""The operations port: how bytes arrive there, and what /metrics, /healthz and /readyz answer."""
