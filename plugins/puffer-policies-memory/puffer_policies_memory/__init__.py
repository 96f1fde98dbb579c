"""Memories. `registry.toml` lists them by name; this file imports nothing."""
