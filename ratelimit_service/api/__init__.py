"""What a call means: one package per gRPC service, and what they share. No transport is known here."""
