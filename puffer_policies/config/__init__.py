"""Configs of runs: typed, layered, each value with its origin. Free of torch and gymnasium."""
