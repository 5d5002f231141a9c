"""Files that somebody damaged or made to do harm, given to every reader there is.

    uv run python -m tests.hostile --cases 10000

Each case is a good file that was changed at random, by a number that makes it again, or one that was written for the
purpose. It is read in a child process: refused in one line, or loaded with finite numbers, in bounded memory and time,
and nothing is run, opened elsewhere or connected to. See docs/reliability.md for what was found so.
"""
