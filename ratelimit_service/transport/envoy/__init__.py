"""The transport on Envoy with Python embedded: the same answers at native HTTP/2 speed."""
