// The CUDA driver's functions that polarizer and candle call, on the processor: memory is the processor's, streams do at once
// what they are told, kernels are looked up by name among those that registered. At exit, what was called how often goes
// to the file that EMULATED_GPU_LOG names.
#include "driver.h"

#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

struct Count {
  size_t calls = 0;
  double amount = 0;
};

struct State {
  std::mutex mutex;
  std::map<std::string, Count> counts;
  std::unordered_map<std::string, Run> kernels;
  std::unordered_map<void *, size_t> memory;
  std::unordered_map<size_t, std::vector<void *>> spare; // by size
  size_t used = 0, most = 0;
};

State &state() {
  static State *all = new State; // never destroyed: libraries ask until the end
  return *all;
}

bool computes() {
  static const bool computes = !getenv("EMULATED_GPU_COUNTS_ALONE");
  return computes;
}

struct Function {
  std::string name;
  Run run;
};

// By name, so that a function asked for again is the same.
Function *function(const std::string &name) {
  static std::unordered_map<std::string, Function *> known;
  std::lock_guard<std::mutex> lock(state().mutex);
  auto &place = known[name];
  if (!place) {
    auto found = state().kernels.find(name);
    place = new Function{name, found == state().kernels.end() ? nullptr : found->second};
  }
  return place;
}

void report() {
  const char *path = getenv("EMULATED_GPU_LOG");
  if (!path) return;
  FILE *out = fopen(path, "w");
  if (!out) return;
  std::lock_guard<std::mutex> lock(state().mutex);
  for (auto &entry : state().counts) fprintf(out, "%10zu %16.0f  %s\n", entry.second.calls, entry.second.amount, entry.first.c_str());
  fprintf(out, "%10s %16zu  bytes at most\n", "", state().most);
  fclose(out);
}

void fill_with_noise(float *values, size_t length) {
  static unsigned state = 1;
  for (size_t i = 0; i < length; i++) values[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1;
}

CUresult take(CUdeviceptr *place, size_t bytes) {
  count("cuMemAlloc", (double)bytes);
  void *memory = nullptr;
  std::unique_lock<std::mutex> lock(state().mutex);
  auto &spare = state().spare[bytes];
  if (!spare.empty()) {
    memory = spare.back();
    spare.pop_back();
  }
  lock.unlock();
  bool fresh = !memory;
  if (fresh && posix_memalign(&memory, 256, bytes ? bytes : 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  // NaN, so that what is read before it was written shows; where nothing is computed, noise that any reader can do with
  if (computes()) memset(memory, 0xff, bytes);
  else if (fresh) fill_with_noise((float *)memory, bytes / sizeof(float));
  lock.lock();
  state().memory[memory] = bytes;
  state().used += bytes;
  if (state().used > state().most) state().most = state().used;
  *place = (CUdeviceptr)memory;
  return CUDA_SUCCESS;
}

CUresult give(CUdeviceptr place) {
  count("cuMemFree");
  std::lock_guard<std::mutex> lock(state().mutex);
  auto known = state().memory.find((void *)place);
  if (known == state().memory.end()) return CUDA_ERROR_INVALID_VALUE;
  state().used -= known->second;
  state().spare[known->second].push_back((void *)place); // as a driver's pool keeps it
  state().memory.erase(known);
  return CUDA_SUCCESS;
}

} // namespace

void count(const std::string &what, double amount) {
  std::lock_guard<std::mutex> lock(state().mutex);
  static bool registered = !atexit(report);
  (void)registered;
  Count &c = state().counts[what];
  c.calls++;
  c.amount += amount;
}

Kernel::Kernel(const char *name, Run run) { state().kernels[name] = run; }

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int room, CUdevice) {
  snprintf(name, room, "emulated on the processor");
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
  case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
  default: *value = 0;
  }
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) { return *context = (CUcontext)8, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) {
  count("cuCtxSetCurrent");
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) {
  count("cuCtxGetCurrent");
  return *context = (CUcontext)8, CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() { return count("synchronize"), CUDA_SUCCESS; }

CUresult cuStreamCreate(CUstream *stream, unsigned) { return *stream = (CUstream)16, CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return count("synchronize"), CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return count("cuStreamWaitEvent"), CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status) {
  return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned) { return count("cuEventCreate"), *event = (CUevent)24, CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { return count("cuEventRecord"), CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return count("synchronize"), CUDA_SUCCESS; }
CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }

CUresult cuMemAlloc(CUdeviceptr *place, size_t bytes) { return take(place, bytes); }
CUresult cuMemAllocAsync(CUdeviceptr *place, size_t bytes, CUstream) { return take(place, bytes); }
CUresult cuMemFree(CUdeviceptr place) { return give(place); }
CUresult cuMemFreeAsync(CUdeviceptr place, CUstream) { return give(place); }
CUresult cuMemGetInfo(size_t *free, size_t *total) {
  std::lock_guard<std::mutex> lock(state().mutex);
  *total = (size_t)8 << 30;
  *free = *total - state().used;
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **place, size_t bytes, unsigned) {
  return posix_memalign(place, 256, bytes) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *place) { return free(place), CUDA_SUCCESS; }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) { return *pool = (CUmemoryPool)32, CUDA_SUCCESS; }
CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice) { return *pool = (CUmemoryPool)32, CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void *) { return CUDA_SUCCESS; }

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream) {
  count("copies to the GPU", (double)bytes);
  return memcpy((void *)to, from, bytes), CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
  return cuMemcpyHtoDAsync(to, from, bytes, nullptr);
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream) {
  count("copies from the GPU", (double)bytes);
  return memcpy(to, (void *)from, bytes), CUDA_SUCCESS;
}
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoHAsync(to, from, bytes, nullptr); }
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream) {
  count("copies on the GPU", (double)bytes);
  if (computes()) memmove((void *)to, (void *)from, bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream) {
  count("cuMemsetD8Async", (double)bytes);
  if (computes()) memset((void *)to, value, bytes);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  // what a driver would have to compile: the text of a module, by its first entry
  std::string text((const char *)image);
  size_t at = text.find(".entry ");
  std::string first = at == std::string::npos ? "?" : text.substr(at + 7, text.find('(', at) - at - 7);
  count("module with " + first, (double)text.size());
  return *module = (CUmodule)40, CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *place, CUmodule, const char *name) {
  count("cuModuleGetFunction");
  *place = (CUfunction)function(name);
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned, CUstream, void **arguments, void **) {
  Function *kernel = (Function *)f;
  count("kernel " + kernel->name, (double)gx * gy * gz);
  // what every GPU has room for
  if (!gx || gx > 0x7fffffff || !gy || gy > 65535 || !gz || gz > 65535 || bx * by * bz - 1 >= 1024) {
    fprintf(stderr, "emulated GPU: a grid of %ux%ux%u blocks of %ux%ux%u for %s\n", gx, gy, gz, bx, by, bz, kernel->name.c_str());
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!computes()) return CUDA_SUCCESS;
  // to see who asks for one
  static const std::string without = getenv("EMULATED_GPU_WITHOUT") ? getenv("EMULATED_GPU_WITHOUT") : "";
  if (!kernel->run || kernel->name == without) {
    fprintf(stderr, "emulated GPU: no kernel %s\n", kernel->name.c_str());
    return CUDA_ERROR_NOT_FOUND;
  }
  static std::mutex one; // at a time
  std::lock_guard<std::mutex> lock(one);
  kernel->run(arguments, {gx, gy, gz}, {bx, by, bz});
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
  static char name[32];
  snprintf(name, sizeof name, "error %d", (int)error);
  return *text = name, CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }

} // extern "C"

// The CUDA runtime, which libraries linked in register their kernels with and nothing else.
extern "C" {

void **__cudaRegisterFatBinary(void *) {
  static void *handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *) {}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
int __cudaInitModule(void **) { return 0; }

} // extern "C"
