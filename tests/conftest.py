"""What every test may use: real stores from the wheels."""

pytest_plugins = ["fixtures.valkey", "fixtures.postgres", "fixtures.dev_server", "fixtures.served"]
