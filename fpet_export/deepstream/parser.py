"""The C++ source of a parser that names the class of logits, for Gst-nvinfer.

nvinfer's own parser takes outputs for probabilities: it begins with a largest value of 0, so a
picture whose logits are all negative has no class, and it reports a logit as the confidence
(`ClassifyPostprocessor::parseAttributesFromSoftmaxLayers` in nvdsinfer). A threshold cannot put
that right, because one below 0 is refused. The function here is of the type
`NvDsInferClassiferParseCustomFunc` (nvdsinfer_custom_impl.h).
"""

from __future__ import annotations

from engines.manifest import Manifest
from fpet_export.deepstream.nvinfer import FUNCTION, PLAN

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.,:+-/()'")

_SOURCE = """\
// Written by `fpet-export deepstream` for @PLAN@, SHA-256 @SHA256@.
// Names the likeliest class of each picture, with its probability from a softmax.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "nvdsinfer.h"

namespace {

const char kOutput[] = @OUTPUT@;
const unsigned int kClasses = @COUNT@;
const char *const kNames[kClasses] = {
@NAMES@
};

// nvinfer does not look at what a parser returns, and reads a result that was never written after
// `false`; so a picture without an answer gets none, and the reason is said once.
bool without_answer(const char *reason) {
  static bool is_said = false;
  if (!is_said) {
    std::fprintf(stderr, "@FUNCTION@: no class is given: %s\\n", reason);
    is_said = true;
  }
  return true;
}

}  // namespace

extern "C" bool @FUNCTION@(
    std::vector<NvDsInferLayerInfo> const &outputs, NvDsInferNetworkInfo const &network,
    float threshold, std::vector<NvDsInferAttribute> &attributes, std::string &description);

extern "C" bool @FUNCTION@(
    std::vector<NvDsInferLayerInfo> const &outputs, NvDsInferNetworkInfo const & /*network*/,
    float threshold, std::vector<NvDsInferAttribute> &attributes, std::string &description) {
  for (const NvDsInferLayerInfo &layer : outputs) {
    if (std::strcmp(layer.layerName, kOutput) != 0) {
      continue;
    }
    if (layer.dataType != FLOAT || layer.inferDims.numElements != kClasses) {
      return without_answer("the output is not one float32 a class: another plan is loaded");
    }
    const float *logits = static_cast<const float *>(layer.buffer);
    unsigned int best = 0;
    for (unsigned int index = 1; index < kClasses; ++index) {
      if (logits[index] > logits[best]) {
        best = index;
      }
    }
    double sum = 0.0;
    for (unsigned int index = 0; index < kClasses; ++index) {
      sum += std::exp(static_cast<double>(logits[index]) - static_cast<double>(logits[best]));
    }
    if (!std::isfinite(sum)) {
      return without_answer("a logit is not finite");
    }
    const float probability = static_cast<float>(1.0 / sum);
    if (!(probability > threshold)) {
      return true;
    }
    NvDsInferAttribute found{};
    found.attributeIndex = 0;
    found.attributeValue = best;
    found.attributeConfidence = probability;
    found.attributeLabel = strdup(kNames[best]);  // nvinfer frees it
    attributes.push_back(found);
    description.append(kNames[best]).append(" ");
    return true;
  }
  return without_answer("there is no output of that name: another plan is loaded");
}
"""


def parser_source(manifest: Manifest) -> str:
    """Return the source for a plan that ends in logits; a class without a name has its index.

    The names are part of it, because nvinfer does not hand them to a parser.
    """
    logits = manifest.outputs[0]
    count = logits.shape[1]
    assert isinstance(count, int)  # `require_servable` saw it
    names = manifest.labels or tuple(map(str, range(count)))
    values = {
        "PLAN": PLAN,
        "SHA256": manifest.sha256,
        "OUTPUT": _literal(logits.name),
        "COUNT": str(count),
        "NAMES": "\n".join(f"    {_literal(name)}," for name in names),
        "FUNCTION": FUNCTION,
    }
    source = _SOURCE
    for key, value in values.items():
        source = source.replace(f"@{key}@", value)
    return source


def _literal(text: str) -> str:
    """Return a C++ string literal of the UTF-8 bytes; three octal digits end by themselves."""
    parts = (chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in text.encode("utf-8"))
    return f'"{"".join(parts)}"'
