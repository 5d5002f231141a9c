"""How candidates are scored, a file a way."""

NAMES = ("supernet", "train", "zero-cost")  # that a user chooses from; a table is chosen by the task
