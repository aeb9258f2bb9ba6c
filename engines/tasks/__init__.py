"""A folder of tasks on one backbone: its files, and its open engine."""
