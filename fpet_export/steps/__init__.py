"""Steps that workflows share: images, checks before use, typing, measuring, the plain ViT."""
