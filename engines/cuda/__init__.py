"""One CUDA device through its driver and runtime libraries, without torch."""
