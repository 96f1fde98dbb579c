"""The parts a policy is assembled from: features, encoders, cores, heads and distributions."""
