"""What is made of many runs: curves, plots, comparisons, searches for options."""
