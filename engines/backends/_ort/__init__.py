"""Parts of the ONNX Runtime backend, `engines.backends.ort`."""
