"""Parts of the TensorRT backend, `engines.backends.trt`."""
