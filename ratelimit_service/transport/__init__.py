"""How bytes arrive, and nothing else: plain `grpc.aio`, or Envoy with Python embedded."""
