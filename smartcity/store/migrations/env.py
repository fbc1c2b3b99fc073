"""Alembic runs this for every upgrade, over the connection `database.upgrade` hands it."""

from alembic import context

from smartcity.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can change a column only by copying its table
)
context.run_migrations()
