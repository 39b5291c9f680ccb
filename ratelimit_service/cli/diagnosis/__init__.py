"""What `doctor` looks at, one thing per file. Each look gives findings in words and never raises."""
