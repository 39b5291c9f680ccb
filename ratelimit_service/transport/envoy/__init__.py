"""The transport on Envoy with embedded Python: the same responses at native HTTP/2 speed."""
