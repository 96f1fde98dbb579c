"""Cards with the measurements of each policy and wrapper, and the results of their training."""
