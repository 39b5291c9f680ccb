"""Envoy's own protocols: on the wire, and with a real Envoy in front of a real upstream."""
