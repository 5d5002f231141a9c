"""How a trial's architecture was drawn, and of which earlier trial it has the result."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("trial", sa.Column("drawn", sa.JSON))
    op.add_column("trial", sa.Column("repeats", sa.Integer))
