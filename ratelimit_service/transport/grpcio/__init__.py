"""The transport on grpc.aio: plain Python, every service, runs everywhere."""
