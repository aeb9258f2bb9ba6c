"""Configurations of DeepStream's inference element, Gst-nvinfer."""
