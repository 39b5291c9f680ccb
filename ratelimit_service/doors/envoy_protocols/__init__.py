"""What Envoy itself calls: its rate limit service and its authorization service, without any transport."""
