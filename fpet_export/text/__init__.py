"""Encoders of text whose input embeddings were tuned, in Python alone; needs `fpet-export[hf]`."""
