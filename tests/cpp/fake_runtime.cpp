// A stand-in for TensorRT and the CUDA runtime. A "plan" is lines of text:
//
//   in|out NAME float32|float16|uint8 linear|other EXTENT...      (-1 is a dynamic batch)
//
// Logit k of each picture is the input's value at k * step, with step = its size / classes, so a
// wrong layout, type or normalisation shows. Everything that was asked is said on stderr.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "NvInfer.h"

namespace {

using namespace nvinfer1;

struct Binding {
  TensorIOMode mode;
  std::string type;
  bool is_linear;
  Dims shape;
  std::size_t size() const {  // of one picture
    std::size_t product = 1;
    for (int axis = 1; axis < shape.nbDims; ++axis) product *= shape.d[axis];
    return product;
  }
};

using Bindings = std::map<std::string, Binding>;

struct Context : IExecutionContext {
  explicit Context(Bindings &of) : bindings(of) {}
  bool setInputShape(char const *name, Dims const &shape) noexcept override {
    const Dims own = bindings.at(name).shape;
    batch = shape.d[0];
    return shape.nbDims == own.nbDims && (own.d[0] == -1 || own.d[0] == batch) &&
           std::equal(own.d + 1, own.d + own.nbDims, shape.d + 1);
  }
  bool setTensorAddress(char const *name, void *address) noexcept override {
    addresses[name] = address;
    return true;
  }
  bool enqueueV3(cudaStream_t) noexcept override {
    if (batch < 1 || addresses.size() != bindings.size()) return false;
    std::string input, output;
    for (const auto &one : bindings)
      (one.second.mode == TensorIOMode::kINPUT ? input : output) = one.first;
    const std::size_t size = bindings.at(input).size(), classes = bindings.at(output).size();
    for (std::int64_t picture = 0; picture < batch; ++picture)
      for (std::size_t index = 0; index < classes; ++index) {
        const std::size_t from = picture * size + index * (size / classes);
        static_cast<float *>(addresses[output])[picture * classes + index] =
            bindings.at(input).type == "uint8"
                ? static_cast<unsigned char *>(addresses[input])[from]
                : static_cast<float *>(addresses[input])[from];
      }
    std::fprintf(stderr, "fake: ran a batch of %d\n", static_cast<int>(batch));
    return true;
  }
  Bindings &bindings;
  std::map<std::string, void *> addresses;
  std::int64_t batch = 0;
};

struct Engine : ICudaEngine {
  std::int32_t getNbIOTensors() const noexcept override { return bindings.size(); }
  TensorIOMode getTensorIOMode(char const *name) const noexcept override {
    return bindings.count(name) ? bindings.at(name).mode : TensorIOMode::kNONE;
  }
  DataType getTensorDataType(char const *name) const noexcept override {
    const std::string type = bindings.at(name).type;
    if (type == "uint8") return DataType::kUINT8;
    return type == "float16" ? DataType::kHALF : DataType::kFLOAT;
  }
  TensorFormat getTensorFormat(char const *name) const noexcept override {
    return bindings.at(name).is_linear ? TensorFormat::kLINEAR : TensorFormat::kCHW2;
  }
  Dims getTensorShape(char const *name) const noexcept override { return bindings.at(name).shape; }
  IExecutionContext *createExecutionContext() noexcept override { return new Context(bindings); }
  Bindings bindings;
};

struct Runtime : IRuntime {
  void setEngineHostCodeAllowed(bool allowed) noexcept override { is_refused = !allowed; }
  ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept override {
    std::fprintf(stderr, "fake: host code %s\n", is_refused ? "refused" : "not refused");
    std::istringstream plan(std::string(static_cast<char const *>(blob), size));
    auto *engine = new Engine;
    for (std::string text; std::getline(plan, text);) {
      std::istringstream line(text);
      std::string mode, name, type, format;
      line >> mode >> name >> type >> format;
      if (mode != "in" && mode != "out") return delete engine, nullptr;
      Binding found{mode == "in" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT, type,
                    format == "linear", Dims{}};
      while (line >> found.shape.d[found.shape.nbDims]) ++found.shape.nbDims;
      engine->bindings[name] = found;
    }
    return engine;
  }
  bool is_refused = false;
};

}  // namespace

nvinfer1::IRuntime *nvinfer1::createInferRuntime(ILogger &) noexcept { return new Runtime; }

extern "C" {
const char *cudaGetErrorString(cudaError_t) { return "a fake error"; }
cudaError_t cudaMalloc(void **address, std::size_t bytes) {
  *address = std::malloc(bytes);
  return std::getenv("FAKE_NO_MEMORY") ? cudaErrorUnknown : cudaSuccess;
}
cudaError_t cudaFree(void *address) {
  std::free(address);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
}
