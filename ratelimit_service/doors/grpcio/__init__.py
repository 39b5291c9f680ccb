"""The door on grpc.aio: plain Python, every service, runs everywhere."""
