"""The machine that this process runs on: its CPU, its Jetson, its state."""
