"""FPET checkpoints tuned on real pretrained weights: data, training and the measured results."""
