"""Environments in batches: one small protocol, and who stands behind it."""
