"""From image files to input tensors and labels."""
