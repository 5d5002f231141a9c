"""Who goes on with a run, of all processes that reach a server."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("run", sa.Column("owner", sa.Text))
