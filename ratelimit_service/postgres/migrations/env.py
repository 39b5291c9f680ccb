"""What Alembic runs to migrate, on the connection and in the transaction that `postgres.migrate` passes."""

from alembic import context

from ratelimit_service.postgres.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
