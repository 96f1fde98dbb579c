"""Builds policies from names, and saves them to checkpoints and loads them again."""
