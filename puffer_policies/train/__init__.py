"""Training: environments, rollouts, PPO, evaluation and whole runs from a config."""
