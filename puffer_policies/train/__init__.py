"""PPO: the arithmetic of a run, rollouts, advantages, the loss and the trainer."""
