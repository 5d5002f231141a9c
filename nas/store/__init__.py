"""The log of all runs, and the questions to it."""
