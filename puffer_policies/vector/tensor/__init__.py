"""Vector envs on a device: the adapter of those that take and give tensors, and envs of our own."""
