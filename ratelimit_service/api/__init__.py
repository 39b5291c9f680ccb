"""What a call means: one package per gRPC service, and what they share. It imports no transport."""
