"""What alembic runs: the steps, on the connection and within the transaction that the store gave it."""

from alembic import context

from nas.store.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
