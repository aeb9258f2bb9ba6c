"""What the trained examples share: the tuned model, the training loop, the files of a run."""
