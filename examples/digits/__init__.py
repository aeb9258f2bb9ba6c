"""A small fine-tuned FPET checkpoint made from scratch: data, training and the measured results."""
