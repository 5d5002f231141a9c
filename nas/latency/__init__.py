"""What networks take on this machine: how they are timed, and the table that says it of networks that were not."""
