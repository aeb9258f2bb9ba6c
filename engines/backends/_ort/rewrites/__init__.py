"""Rewrites of an ONNX graph to ONNX Runtime's own operators, one module a subject."""
