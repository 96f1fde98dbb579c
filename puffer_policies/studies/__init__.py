"""Studies of several runs: learning curves, plots, comparisons and sweeps."""
