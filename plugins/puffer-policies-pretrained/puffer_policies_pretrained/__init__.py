"""Trained policies, each a checkpoint and its card. This file imports nothing."""
