// cuBLAS's products and cuDNN's convolutions, as far as they are asked for. cuDNN's backend hands out one engine, without
// notes; its plans work in no memory of their own.
#include "driver.h"

#include <cudnn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

static bool computes() {
  static const bool computes = !getenv("EMULATED_GPU_COUNTS_ALONE");
  return computes;
}

// C = alpha op(A) op(B) + beta C, column by column.
template <class T>
static void product(bool turn_a, bool turn_b, int m, int n, int k, T alpha, const T *a, int lda, const T *b, int ldb, T beta, T *c,
                    int ldc) {
#pragma omp parallel for
  for (int j = 0; j < n; j++) {
    std::vector<T> sums(m, 0), column(k);
    for (int l = 0; l < k; l++) column[l] = b[turn_b ? j + (size_t)l * ldb : l + (size_t)j * ldb];
    if (turn_a)
      for (int i = 0; i < m; i++) {
        T sum = 0;
        const T *row = a + (size_t)i * lda;
#pragma omp simd reduction(+ : sum)
        for (int l = 0; l < k; l++) sum += row[l] * column[l];
        sums[i] = sum;
      }
    else
      for (int l = 0; l < k; l++) {
        const T *from = a + (size_t)l * lda, by = column[l];
#pragma omp simd
        for (int i = 0; i < m; i++) sums[i] += from[i] * by;
      }
    for (int i = 0; i < m; i++) {
      T &to = c[i + (size_t)j * ldc];
      to = alpha * sums[i] + (beta == 0 ? 0 : beta * to);
    }
  }
}

template <class T>
static void products(int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int lda, long long step_a,
                     const void *b, int ldb, long long step_b, const void *beta, void *c, int ldc, long long step_c, int batch) {
  count("products", 2. * m * n * k * batch);
  if (!computes()) return;
  for (int i = 0; i < batch; i++)
    product<T>(turn_a, turn_b, m, n, k, *(const T *)alpha, (const T *)a + i * step_a, lda, (const T *)b + i * step_b, ldb,
               *(const T *)beta, (T *)c + i * step_c, ldc);
}

extern "C" {

int cublasCreate_v2(void **handle) { return *handle = (void *)8, 0; }
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasGemmStridedBatchedEx(void *, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                               int lda, long long step_a, const void *b, int, int ldb, long long step_b, const void *beta, void *c,
                               int, int ldc, long long step_c, int batch, int, int) {
  if (type_a != 0) return 15; // other than float32: not supported
  products<float>(turn_a, turn_b, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, batch);
  return 0;
}
int cublasSgemmStridedBatched(void *, int turn_a, int turn_b, int m, int n, int k, const float *alpha, const float *a, int lda,
                              long long step_a, const float *b, int ldb, long long step_b, const float *beta, float *c, int ldc,
                              long long step_c, int batch) {
  products<float>(turn_a, turn_b, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, batch);
  return 0;
}
int cublasDgemmStridedBatched(void *, int turn_a, int turn_b, int m, int n, int k, const double *alpha, const double *a, int lda,
                              long long step_a, const double *b, int ldb, long long step_b, const double *beta, double *c, int ldc,
                              long long step_c, int batch) {
  products<double>(turn_a, turn_b, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, batch);
  return 0;
}

int curandCreateGenerator(void **generator, int) { return *generator = (void *)8, 0; }
int curandDestroyGenerator(void *) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
int curandSetStream(void *, void *) { return 0; }

} // extern "C"

namespace {

// A descriptor of the backend: what was set, by name.
struct Part {
  cudnnBackendDescriptorType_t kind;
  std::map<int, std::vector<int64_t>> numbers; // 64-bit ones, pointers and descriptors
  std::map<int, int> types;                    // of data
};

int64_t number(Part *part, cudnnBackendAttributeName_t name, size_t i = 0) {
  auto &values = part->numbers[name];
  if (i >= values.size()) abort(); // a plan that lacks something
  return values[i];
}

Part *inside(Part *part, cudnnBackendAttributeName_t name) { return (Part *)number(part, name); }

struct Shape {
  int64_t n, c, h, w;
};

Shape shape(Part *value) {
  auto dim = [&](size_t i) { return number(value, CUDNN_ATTR_TENSOR_DIMENSIONS, i); };
  return {dim(0), dim(1), dim(2), dim(3)};
}

float widened(uint16_t bits) {
  uint32_t u = (uint32_t)bits << 16;
  float v;
  memcpy(&v, &u, 4);
  return v;
}

uint16_t rounded(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

std::vector<float> floats(const void *from, size_t count, bool half) {
  std::vector<float> all(count);
  if (!half) memcpy(all.data(), from, 4 * count);
  else
    for (size_t i = 0; i < count; i++) all[i] = widened(((const uint16_t *)from)[i]);
  return all;
}

// y = x * w, or with `back` x from y and w. Channels last; weights (O, kh, kw, C / groups). Each pixel of what is made is
// gathered from one pixel a tap, or from none: blocks of pixels by channels stay in registers meanwhile.
void convolve(Shape x, Shape w, Shape y, const int64_t *pads, const int64_t *stride, const int64_t *dilation, bool back, float *xs,
              const float *ws, float *ys) {
  constexpr int64_t WIDE = 16, PIXELS = 8;
  int64_t groups = x.c / w.c, outs = y.c / groups, taps = w.h * w.w;
  const Shape &from = back ? y : x, &to = back ? x : y;
  const float *source = back ? ys : xs;
  float *made = back ? xs : ys;
  int64_t reads = from.c / groups, makes = to.c / groups, blocks = (makes + WIDE - 1) / WIDE;
  // by group, block of channels made, tap and channel read
  std::vector<float> turned(groups * blocks * taps * reads * WIDE, 0.f);
  for (int64_t g = 0; g < groups; g++)
    for (int64_t o = 0; o < outs; o++)
      for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w.c; c++) {
          int64_t makes_at = back ? c : o, reads_at = back ? o : c;
          turned[(((g * blocks + makes_at / WIDE) * taps + tap) * reads + reads_at) * WIDE + makes_at % WIDE] =
              ws[((g * outs + o) * taps + tap) * w.c + c];
        }
  std::vector<float> nothing(from.c, 0.f);
  // where the tap of a pixel reads, or nowhere
  auto place = [&](int64_t n, int64_t pixel, int64_t tap) -> const float * {
    int64_t at[2] = {pixel / to.w, pixel % to.w}, shift[2] = {tap / w.w * dilation[0], tap % w.w * dilation[1]}, p[2];
    for (int i = 0; i < 2; i++) {
      p[i] = back ? at[i] + pads[i] - shift[i] : at[i] * stride[i] - pads[i] + shift[i];
      if (back) {
        if (p[i] < 0 || p[i] % stride[i]) return nothing.data();
        p[i] /= stride[i];
      }
    }
    if (p[0] < 0 || p[0] >= from.h || p[1] < 0 || p[1] >= from.w) return nothing.data();
    return source + ((n * from.h + p[0]) * from.w + p[1]) * from.c;
  };
  int64_t pixels = to.h * to.w;
#pragma omp parallel for collapse(2)
  for (int64_t n = 0; n < to.n; n++)
    for (int64_t first = 0; first < pixels; first += PIXELS) {
      int64_t count = std::min(PIXELS, pixels - first);
      std::vector<const float *> places(taps * PIXELS, nothing.data());
      for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t i = 0; i < count; i++) places[tap * PIXELS + i] = place(n, first + i, tap);
      for (int64_t block = 0; block < groups * blocks; block++) {
        int64_t g = block / blocks, start = block % blocks * WIDE, width = std::min(WIDE, makes - start);
        float sums[PIXELS][WIDE] = {};
        for (int64_t tap = 0; tap < taps; tap++) {
          const float *weights = turned.data() + (block * taps + tap) * reads * WIDE;
          const float *const *at = places.data() + tap * PIXELS;
          for (int64_t c = 0; c < reads; c++, weights += WIDE)
            for (int64_t i = 0; i < PIXELS; i++) {
              float by = at[i][g * reads + c];
#pragma omp simd
              for (int64_t k = 0; k < WIDE; k++) sums[i][k] += by * weights[k];
            }
        }
        for (int64_t i = 0; i < count; i++)
          memcpy(made + ((n * pixels + first + i) * to.c + g * makes + start), sums[i], 4 * width);
      }
    }
}

} // namespace

extern "C" {

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) { return *handle = (cudnnHandle_t)8, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t kind, cudnnBackendDescriptor_t *place) {
  *place = new Part{kind, {}, {}};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t part) {
  delete (Part *)part;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t part, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  Part *to = (Part *)part;
  switch (type) {
  case CUDNN_TYPE_INT64:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    to->numbers[name].assign((const int64_t *)values, (const int64_t *)values + count);
    break;
  case CUDNN_TYPE_DATA_TYPE: to->types[name] = *(const int *)values; break;
  default: break;
  }
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t part) {
  if (((Part *)part)->kind == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) count("cuDNN plans");
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t part, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t room, int64_t *count, void *values) {
  Part *from = (Part *)part;
  *count = 0;
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
    *count = 1;
    if (room > 0) (*(Part **)values)->numbers[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH] = {number(from, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)};
  } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
    *count = 1;
    *(int64_t *)values = 0;
  } else if (name == CUDNN_ATTR_ENGINECFG_ENGINE) *count = 1;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  Part *graph = inside(inside((Part *)plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  Part *operation = inside(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
  bool back = operation->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
  Part *x = inside(operation, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
  Part *w = inside(operation, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
  Part *y = inside(operation, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
  Part *conv =
      inside(operation, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
  Shape sx = shape(x), sw = shape(w), sy = shape(y);
  auto numbers = [&](cudnnBackendAttributeName_t name) { return conv->numbers[name].data(); };
  char name[96];
  snprintf(name, sizeof name, "convolution%s of %ld images", back ? " back" : "", (long)sx.n);
  count(name, 2. * sy.n * sy.h * sy.w * sy.c * sw.c * sw.h * sw.w);
  if (!computes()) return CUDNN_STATUS_SUCCESS;
  bool half = x->types[CUDNN_ATTR_TENSOR_DATA_TYPE] == CUDNN_DATA_BFLOAT16;
  auto pointer = [&](size_t i) { return (void *)number((Part *)pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, i); };
  size_t nx = sx.n * sx.c * sx.h * sx.w, nw = sw.n * sw.c * sw.h * sw.w, ny = sy.n * sy.c * sy.h * sy.w;
  auto run = [&](float *xs, const float *ws, float *ys) {
    convolve(sx, sw, sy, numbers(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), numbers(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
             numbers(CUDNN_ATTR_CONVOLUTION_DILATIONS), back, xs, ws, ys);
  };
  if (!half) {
    run((float *)pointer(0), (const float *)pointer(1), (float *)pointer(2));
    return CUDNN_STATUS_SUCCESS;
  }
  auto xs = floats(pointer(0), nx, true), ws = floats(pointer(1), nw, true), ys = floats(pointer(2), ny, true);
  run(xs.data(), ws.data(), ys.data());
  auto &result = back ? xs : ys;
  uint16_t *to = (uint16_t *)pointer(back ? 0 : 2);
  for (size_t i = 0; i < result.size(); i++) to[i] = rounded(result[i]);
  return CUDNN_STATUS_SUCCESS;
}

} // extern "C"

// The older functions: tensors with strides of their own, an algorithm that is always the same.
namespace {

struct Older {
  cudnnDataType_t type;
  bool last; // channels last
  int64_t dims[4];
  int64_t pads[2], stride[2], dilation[2];
  int groups = 1;
};

Older &of(const void *descriptor) { return *(Older *)descriptor; }

template <class T> cudnnStatus_t make(T *place) {
  *place = (T) new Older{};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t drop(const void *descriptor) {
  delete (Older *)descriptor;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t shaped(void *descriptor, cudnnDataType_t type, cudnnTensorFormat_t format, int a, int b, int c, int d) {
  Older &to = of(descriptor);
  to.type = type;
  to.last = format == CUDNN_TENSOR_NHWC;
  int64_t dims[] = {a, b, c, d};
  memcpy(to.dims, dims, sizeof dims);
  return to.last ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}

Shape shape_of(const void *descriptor) {
  const int64_t *d = of(descriptor).dims;
  return {d[0], d[1], d[2], d[3]};
}

cudnnStatus_t older(const void *x, const void *w, const void *y, const void *conv, bool back, const void *xs, const void *ws,
                    const void *ys) {
  if (of(x).type != CUDNN_DATA_FLOAT) return CUDNN_STATUS_NOT_SUPPORTED;
  count(back ? "convolution back, the older way" : "convolution, the older way");
  if (computes())
    convolve(shape_of(x), shape_of(w), shape_of(y), of(conv).pads, of(conv).stride, of(conv).dilation, back, (float *)xs,
             (const float *)ws, (float *)ys);
  return CUDNN_STATUS_SUCCESS;
}

} // namespace

extern "C" {

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *d) { return make(d); }
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *d) { return make(d); }
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *d) { return make(d); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return drop(d); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { return drop(d); }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { return drop(d); }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c,
                                         int h, int w) {
  return shaped(d, type, format, n, c, h, w);
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int o, int c,
                                         int h, int w) {
  return shaped(d, type, format, o, c, h, w);
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int top, int left, int down, int right, int dh, int dw,
                                              cudnnConvolutionMode_t, cudnnDataType_t) {
  Older &to = of(d);
  to.pads[0] = top, to.pads[1] = left, to.stride[0] = down, to.stride[1] = right, to.dilation[0] = dh, to.dilation[1] = dw;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t, int) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t, cudnnMathType_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t,
                                                     const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, int,
                                                     int *found, cudnnConvolutionFwdAlgoPerf_t *one) {
  *one = {};
  one->algo = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM;
  one->determinism = CUDNN_DETERMINISTIC;
  one->mathType = CUDNN_FMA_MATH;
  return *found = 1, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
                                                          const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, int,
                                                          int *found, cudnnConvolutionBwdDataAlgoPerf_t *one) {
  *one = {};
  one->algo = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
  one->determinism = CUDNN_DETERMINISTIC;
  one->mathType = CUDNN_FMA_MATH;
  return *found = 1, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t, size_t *bytes) {
  return *bytes = 0, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
                                                           const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t,
                                                           cudnnConvolutionBwdDataAlgo_t, size_t *bytes) {
  return *bytes = 0, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void *, const cudnnTensorDescriptor_t x, const void *xs,
                                      const cudnnFilterDescriptor_t w, const void *ws, const cudnnConvolutionDescriptor_t conv,
                                      cudnnConvolutionFwdAlgo_t, void *, size_t, const void *, const cudnnTensorDescriptor_t y,
                                      void *ys) {
  return older(x, w, y, conv, false, xs, ws, ys);
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void *, const cudnnFilterDescriptor_t w, const void *ws,
                                           const cudnnTensorDescriptor_t y, const void *ys, const cudnnConvolutionDescriptor_t conv,
                                           cudnnConvolutionBwdDataAlgo_t, void *, size_t, const void *,
                                           const cudnnTensorDescriptor_t x, void *xs) {
  return older(x, w, y, conv, true, xs, ws, ys);
}

} // extern "C"
