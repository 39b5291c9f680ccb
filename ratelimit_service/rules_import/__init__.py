"""Reading the configuration of envoyproxy/ratelimit as descriptor rules. Pure: text in, rules and findings out."""
