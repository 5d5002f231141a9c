"""What drives a search: the loop, studies of many seeds, searches by gradients, and where candidates run."""
