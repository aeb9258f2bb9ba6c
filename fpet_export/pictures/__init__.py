"""Pictures of merges and of kernels."""
