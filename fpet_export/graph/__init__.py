"""From the folded model to the static ONNX graph."""
