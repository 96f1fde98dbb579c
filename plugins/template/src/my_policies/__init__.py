"""Reinforcement-learning policies, found by name through puffer-policies."""
