"""What was trained: backbones, checkpoints, methods and mergers as one model."""
