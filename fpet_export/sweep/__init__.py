"""A grid of runs, merges, batches, precisions and targets, computed by the workers of a cluster."""
