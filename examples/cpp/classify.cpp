// Classifies one picture with a plan of TensorRT or TensorRT-RTX:
//
//   classify PLAN FACTS PICTURE.ppm
//
// FACTS is what facts.py wrote of the plan's manifest, PICTURE what picture.py made of an image.
// A plan is code: run your own only.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Tensor {
  std::string name, type;
  std::vector<std::int64_t> shape;  // -1 for a dynamic batch
};

struct Facts {
  std::string layout;
  std::uint64_t bytes = 0;
  std::uint32_t adler32 = 0;
  std::int64_t batch = 0, height = 0, width = 0;
  std::vector<float> mean, std;  // empty where the graph applies them
  Tensor input, output;
  std::vector<std::string> labels;
};

void require(bool holds, const std::string &otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

void check(cudaError_t status) { require(status == cudaSuccess, cudaGetErrorString(status)); }

template <typename T>
std::vector<T> values(std::istream &line) {
  return {std::istream_iterator<T>(line), std::istream_iterator<T>()};
}

Tensor tensor(std::istream &line) {
  Tensor found;
  line >> found.name >> found.type;
  found.shape = values<std::int64_t>(line);
  return found;
}

Facts read_facts(const std::string &path) {
  std::ifstream file(path);
  require(file.good(), path + ": cannot be read");
  Facts facts;
  for (std::string text, key; std::getline(file, text);) {
    std::istringstream line(text);
    line >> key >> std::ws;
    if (key == "plan") line >> facts.bytes >> facts.adler32;
    else if (key == "picture") line >> facts.height >> facts.width >> facts.layout;
    else if (key == "batch") line >> facts.batch;
    else if (key == "mean") facts.mean = values<float>(line);
    else if (key == "std") facts.std = values<float>(line);
    else if (key == "input") facts.input = tensor(line);
    else if (key == "output") facts.output = tensor(line);
    else if (key == "label") std::getline(line, *facts.labels.emplace(facts.labels.end()));
    else throw std::runtime_error(path + ": unknown fact: " + text);
  }
  require(facts.batch > 0 && facts.input.shape.size() == 4 && facts.output.shape.size() == 2 &&
              facts.labels.size() == static_cast<std::size_t>(facts.output.shape[1]),
          path + ": not whole; write it again with facts.py");
  return facts;
}

std::vector<char> read_bytes(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::uint32_t adler32(const std::vector<char> &bytes) {  // as zlib's
  std::uint32_t low = 1, high = 0;
  for (char byte : bytes) {
    low = (low + static_cast<unsigned char>(byte)) % 65521;
    high = (high + low) % 65521;
  }
  return high << 16 | low;
}

std::vector<unsigned char> read_picture(const std::string &path, const Facts &facts) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  std::int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  require(magic == "P6" && largest == 255, path + ": not a binary PPM (P6) with 8 bits a colour");
  require(width == facts.width && height == facts.height,
          path + ": has " + std::to_string(width) + "x" + std::to_string(height) + ", wanted " +
              std::to_string(facts.width) + "x" + std::to_string(facts.height) +
              ": make it with picture.py");
  file.get();
  std::vector<unsigned char> pixels(static_cast<std::size_t>(width * height * 3));
  file.read(reinterpret_cast<char *>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  require(file.good() && file.peek() == EOF, path + ": has another number of bytes than it says");
  return pixels;
}

// Bytes of one picture as the engine takes it: pixels (height, width, RGB) in its layout and type.
std::vector<char> prepared(const std::vector<unsigned char> &pixels, const Facts &facts) {
  const std::size_t area = pixels.size() / 3, size = facts.input.type == "float32" ? 4 : 1;
  std::vector<char> bytes(pixels.size() * size);
  for (std::size_t index = 0; index < pixels.size(); ++index) {
    const std::size_t colour = index % 3;
    const std::size_t to = facts.layout == "NCHW" ? colour * area + index / 3 : index;
    if (size == 1) {
      bytes[to] = static_cast<char>(pixels[index]);
      continue;
    }
    float value = static_cast<float>(pixels[index]) / 255.0f;
    if (!facts.mean.empty()) value = (value - facts.mean[colour]) / facts.std[colour];
    std::copy_n(reinterpret_cast<const char *>(&value), 4, &bytes[to * 4]);
  }
  return bytes;
}

struct Logger : nvinfer1::ILogger {
  void log(Severity severity, const char *text) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
  }
};

void require_binding(const nvinfer1::ICudaEngine &engine, const Tensor &wanted,
                     nvinfer1::TensorIOMode mode) {
  const char *name = wanted.name.c_str();
  require(engine.getTensorIOMode(name) == mode, "the plan has no such binding: " + wanted.name);
  const auto type =
      wanted.type == "uint8" ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
  const nvinfer1::Dims shape = engine.getTensorShape(name);
  require(engine.getTensorDataType(name) == type &&
              engine.getTensorFormat(name) == nvinfer1::TensorFormat::kLINEAR &&
              shape.nbDims == static_cast<int>(wanted.shape.size()) &&
              std::equal(wanted.shape.begin(), wanted.shape.end(), shape.d),
          "the plan's " + wanted.name + " has another type or shape than its manifest says");
}

using Memory = std::unique_ptr<void, cudaError_t (*)(void *)>;

Memory allocate(std::size_t bytes) {
  void *address = nullptr;
  check(cudaMalloc(&address, bytes));
  return Memory(address, cudaFree);
}

std::vector<float> run(const std::vector<char> &plan, const std::vector<char> &picture,
                       const Facts &facts) {
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  require(runtime != nullptr, "TensorRT does not start: is there a GPU with its driver?");
  runtime->setEngineHostCodeAllowed(false);
  std::unique_ptr<nvinfer1::ICudaEngine> engine(
      runtime->deserializeCudaEngine(plan.data(), plan.size()));
  require(engine != nullptr, "the plan does not load: it needs the TensorRT and GPU that built it");
  require(engine->getNbIOTensors() == 2, "the plan has more inputs or outputs than one of each");
  require_binding(*engine, facts.input, nvinfer1::TensorIOMode::kINPUT);
  require_binding(*engine, facts.output, nvinfer1::TensorIOMode::kOUTPUT);
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  require(context != nullptr, "no memory for an execution context");

  std::vector<float> logits(static_cast<std::size_t>(facts.batch * facts.output.shape[1]));
  const std::size_t batch = static_cast<std::size_t>(facts.batch), bytes = logits.size() * 4;
  const Memory input = allocate(batch * picture.size()), output = allocate(bytes);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  for (std::size_t place = 0; place < batch; ++place)  // the same picture in all places
    check(cudaMemcpyAsync(static_cast<char *>(input.get()) + place * picture.size(), picture.data(),
                          picture.size(), cudaMemcpyHostToDevice, stream));
  nvinfer1::Dims shape = engine->getTensorShape(facts.input.name.c_str());
  shape.d[0] = facts.batch;
  require(context->setInputShape(facts.input.name.c_str(), shape) &&
              context->setTensorAddress(facts.input.name.c_str(), input.get()) &&
              context->setTensorAddress(facts.output.name.c_str(), output.get()) &&
              context->enqueueV3(stream),
          "TensorRT did not run");
  check(cudaMemcpyAsync(logits.data(), output.get(), bytes, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));
  logits.resize(facts.labels.size());
  return logits;
}

void print_best(const std::vector<float> &logits, const std::vector<std::string> &labels) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(logit - largest);
  require(std::isfinite(sum), "a logit is not finite");
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  for (std::size_t rank = 0; rank < std::min<std::size_t>(5, order.size()); ++rank)
    std::printf("%s %.1f%%\n", labels[order[rank]].c_str(),
                100.0 * std::exp(logits[order[rank]] - largest) / sum);
}

}  // namespace

int main(int count, char **words) try {
  require(count == 4, "usage: classify PLAN FACTS PICTURE.ppm");
  const Facts facts = read_facts(words[2]);
  const std::vector<char> plan = read_bytes(words[1]);
  require(plan.size() == facts.bytes && adler32(plan) == facts.adler32,
          std::string(words[2]) + " is about another plan; write it with facts.py");
  print_best(run(plan, prepared(read_picture(words[3], facts), facts), facts), facts.labels);
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
