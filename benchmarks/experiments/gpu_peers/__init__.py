"""Ways to run a ViT on a CUDA GPU, for `benchmarks.experiments.gpu_check`: one file a way.

The interface is that of `benchmarks.peers`. The torch ways take `source.module`, already of the
type `source.dtype`; the others take `source.onnx`.
"""
