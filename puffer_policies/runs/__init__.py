"""Runs: training from a config, with a folder, metrics, checkpoints, display and evaluation."""
