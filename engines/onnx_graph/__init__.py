"""ONNX graphs as onnx_graphsurgeon has them: read, written and tapped, for whoever changes graphs.

It lies in `engines` because both `calibration` and `fpet_export` stand on it. It needs the packages
onnx and onnx_graphsurgeon, which a board lacks: no other module of `engines` imports it.
"""
