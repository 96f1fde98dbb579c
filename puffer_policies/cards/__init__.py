"""Cards: what was measured of every policy and wrapper, and what each has learned."""
