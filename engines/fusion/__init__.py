"""What TensorRT made of a graph, kernel by kernel."""
