"""Environments of our own. Free of torch."""
