"""How checks are selected, run in isolation and reported."""
