"""What is kept in files of its own: checkpoints, networks, predictors."""
