"""The policies of this package, one file per family; `registry.toml` lists them by name."""
