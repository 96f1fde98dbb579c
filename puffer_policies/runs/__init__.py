"""A run and what becomes of it: folder, metrics, checkpoints, display, evaluation."""
