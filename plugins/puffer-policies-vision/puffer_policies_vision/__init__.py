"""Policies for images and grids. `registry.toml` lists them by name; this file imports nothing."""
