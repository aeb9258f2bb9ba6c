"""Parts of the backend of PyTorch's ahead-of-time packages, `engines.backends.aoti`."""
