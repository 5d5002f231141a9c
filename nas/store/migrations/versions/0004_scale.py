"""What answers questions about millions of trials: what was measured by value, who did not finish, and fronts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    # Of the finished trials of a search; of others it stays empty.
    op.add_column("measurement", sa.Column("run_id", sa.Integer))
    op.execute(
        "UPDATE measurement SET run_id = (SELECT run_id FROM trial "
        "WHERE id = measurement.trial_id AND kind = 'search' AND state = 'finished')"
    )
    op.create_index("measurement_value", "measurement", ["run_id", "name", "value", "trial_id"])
    unfinished = sa.text("state <> 'finished'")
    op.create_index(
        "trial_unfinished", "trial", ["run_id", "kind", "state"],
        sqlite_where=unfinished, postgresql_where=unfinished,
    )  # fmt: skip
    if sqlite:
        op.execute("CREATE INDEX trial_description ON trial (substr(description, 1, 40))")
    else:
        op.create_index("trial_description", "trial", ["description"], postgresql_using="hash")
    # The trials of a search that no other dominates, by the objectives that the run names.
    op.add_column("run", sa.Column("front", sa.Text))
    op.create_table(
        "front",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("trial.id"), primary_key=True),
        sa.Column("run_id", sa.Integer, sa.ForeignKey("run.id"), nullable=False, index=True),
    )
