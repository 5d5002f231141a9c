"""Training: a network as a function of its weights, and how the weights are found."""
