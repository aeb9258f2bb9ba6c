// What examples/cpp uses of the CUDA runtime, declared as its API reference describes it.
#pragma once

#include <cstddef>

enum cudaError_t { cudaSuccess = 0, cudaErrorUnknown = 999 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
typedef struct CUstream_st *cudaStream_t;

extern "C" {
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaMalloc(void **address, std::size_t bytes);
cudaError_t cudaFree(void *address);
cudaError_t cudaMemcpyAsync(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
}
