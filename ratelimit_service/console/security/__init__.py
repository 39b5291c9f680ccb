"""What protects the console: headers, hosts, origins, sessions, and the pace of guessing."""
