"""Postgres: tables, repositories, migrations, the policy source and the change feed."""
