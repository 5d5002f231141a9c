"""What spaces, strategies, predictors and tasks promise, tried on one of them: a file a kind of part.

A broken law is told in one line: the law; for what it was tried, and what came out.
"""
