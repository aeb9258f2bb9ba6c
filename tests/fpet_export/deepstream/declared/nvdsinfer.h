// What the parser uses of DeepStream's nvdsinfer.h, declared as its API reference describes it.
// Set DEEPSTREAM_INCLUDES to compile against NVIDIA's own.
#pragma once

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 };

struct NvDsInferDims {
  unsigned int numDims;
  unsigned int d[8];
  unsigned int numElements;
};

struct NvDsInferLayerInfo {
  NvDsInferDataType dataType;
  NvDsInferDims inferDims;
  int bindingIndex;
  const char *layerName;
  void *buffer;
  int isInput;
};

struct NvDsInferNetworkInfo {
  unsigned int width;
  unsigned int height;
  unsigned int channels;
};

struct NvDsInferAttribute {
  unsigned int attributeIndex;
  unsigned int attributeValue;
  float attributeConfidence;
  char *attributeLabel;
};
