// Kernels for training on a GPU, besides cuDNN's convolutions and cuBLAS's products. NVRTC compiles them at start.
// Images are channels-last, [n, h, w, c], contiguous f32. Every sum has a fixed order, so that runs are reproducible.

typedef unsigned int u32;
typedef unsigned long long u64;

// out = relu((in, 0 where mask_in is not set) * scale + shift + more): all but `in` may be null.
// A mask has `words` words per row of `row` elements; bit i of a row is element i.
// Four elements per thread: row is a multiple of 32 and of channels, channels of 4. out may alias in.
extern "C" __global__ void pass4(float4* out, const float4* in, const float4* more, const float* scale,
                                 const float* shift, const u32* mask_in, u32* mask_out, u32 quads, u32 channels,
                                 int relu) {
  u32 q = blockIdx.x * blockDim.x + threadIdx.x;
  if (q >= quads) return;
  float4 v = in[q];
  u32 c = channels ? (q * 4) % channels : 0;
  u32 at = (q & 7) * 4;
  if (mask_in) {
    u32 bits = mask_in[q >> 3] >> at;
    v.x = bits & 1 ? v.x : 0.f;
    v.y = bits & 2 ? v.y : 0.f;
    v.z = bits & 4 ? v.z : 0.f;
    v.w = bits & 8 ? v.w : 0.f;
  }
  if (scale) {
    float4 s = *(const float4*)(scale + c);
    v.x *= s.x, v.y *= s.y, v.z *= s.z, v.w *= s.w;
  }
  if (shift) {
    float4 s = *(const float4*)(shift + c);
    v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
  }
  if (more) {
    float4 s = more[q];
    v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
  }
  if (mask_out) {
    u32 bits = (v.x > 0.f) | (v.y > 0.f) << 1 | (v.z > 0.f) << 2 | (v.w > 0.f) << 3;
    bits <<= at;
    // quads is a multiple of 8, so all eight threads of a word are active
    u32 lanes = 0xffu << (threadIdx.x & 24);
    bits |= __shfl_xor_sync(lanes, bits, 1);
    bits |= __shfl_xor_sync(lanes, bits, 2);
    bits |= __shfl_xor_sync(lanes, bits, 4);
    if ((q & 7) == 0) mask_out[q >> 3] = bits;
  }
  if (relu) v.x = fmaxf(v.x, 0.f), v.y = fmaxf(v.y, 0.f), v.z = fmaxf(v.z, 0.f), v.w = fmaxf(v.w, 0.f);
  out[q] = v;
}

// The same for any row and number of channels: one element per thread, one row of blocks per row.
extern "C" __global__ void pass1(float* out, const float* in, const float* more, const float* scale,
                                 const float* shift, const u32* mask_in, u32* mask_out, u32 row, u32 words,
                                 u32 channels, int relu) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  bool there = i < row;
  u32 at = blockIdx.y * row + i;
  float v = there ? in[at] : 0.f;
  u32 c = channels ? i % channels : 0;
  if (mask_in && there && !(mask_in[blockIdx.y * words + (i >> 5)] >> (i & 31) & 1)) v = 0.f;
  if (scale) v *= scale[c];
  if (shift) v += shift[c];
  if (more && there) v += more[at];
  if (mask_out) {
    u32 bits = __ballot_sync(0xffffffffu, there && v > 0.f);
    if ((threadIdx.x & 31) == 0 && there) mask_out[blockIdx.y * words + (i >> 5)] = bits;
  }
  if (relu) v = fmaxf(v, 0.f);
  if (there) out[at] = v;
}

__device__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// Element-wise functions by the code of Function::code, and their slopes from the saved values.
__device__ float value(int code, float x, float a, float b) {
  switch (code) {
    case 0: return x < 0.f ? a * x : x;
    case 1: return sigmoid(x);
    case 2: return fminf(fmaxf(a * x + b, 0.f), 1.f);
    case 3: return x * fminf(fmaxf(x * (1.f / 6.f) + 0.5f, 0.f), 1.f);
    case 4: return x * sigmoid(a * x);
    case 5: return x * 0.5f * (1.f + erff(x * 0.70710678f));
    case 6: return 0.5f * x * (1.f + tanhf(0.7978846f * (x + 0.044715f * x * x * x)));
    default: return tanhf(x);
  }
}

__device__ float slope(int code, float x, float a, float b, float from, float to) {
  switch (code) {
    case 0: return x > 0.f ? 1.f : a;
    case 1: return x * (1.f - x);
    case 2: return from < x && x < to ? a : 0.f;
    case 3: return x <= -3.f ? 0.f : x < 3.f ? x * (1.f / 3.f) + 0.5f : 1.f;
    case 4: {
      float s = sigmoid(a * x);
      return s + a * x * s * (1.f - s);
    }
    case 5: return 0.5f * (1.f + erff(x * 0.70710678f)) + x * expf(-0.5f * x * x) * 0.39894228f;
    case 6: {
      float t = tanhf(0.7978846f * (x + 0.044715f * x * x * x));
      return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * 0.7978846f * (1.f + 3.f * 0.044715f * x * x);
    }
    default: return 1.f - x * x;
  }
}

extern "C" __global__ void apply(float* out, const float* in, u32 n, int code, float a, float b) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = value(code, in[i], a, b);
}

// out = dy * slope(kept)
extern "C" __global__ void apply_back(float* out, const float* dy, const float* kept, u32 n, int code, float a,
                                      float b, float from, float to) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = dy[i] * slope(code, kept[i], a, b, from, to);
}

// out[g, r, c] = (big[g, r, c] or 1) * small[g, c] * factor; one row of blocks per g.
extern "C" __global__ void gate(float* out, const float* big, const float* small, u32 image, u32 channels,
                                float factor) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= image) return;
  u32 at = blockIdx.y * image + i;
  out[at] = (big ? big[at] : 1.f) * small[blockIdx.y * channels + i % channels] * factor;
}

// out[g, c] = factor * sum over r of a[g, r, c] (b[g, r, c] or 1): blocks of 32 channels by 32 parts of the rows.
extern "C" __global__ void sum_rows(float* out, const float* a, const float* b, u32 rows, u32 channels,
                                    float factor) {
  __shared__ float part[32][33];
  u32 c = blockIdx.x * 32 + threadIdx.x;
  u64 base = (u64)blockIdx.y * rows * channels;
  float sum = 0.f;
  if (c < channels)
    for (u32 r = threadIdx.y; r < rows; r += 32) {
      u64 at = base + (u64)r * channels + c;
      sum += b ? a[at] * b[at] : a[at];
    }
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < channels) {
    float all = 0.f;
    for (int i = 0; i < 32; i++) all += part[i][threadIdx.x];
    out[blockIdx.y * channels + c] = all * factor;
  }
}

struct Window {
  int h, w, oh, ow, kh, kw, sh, sw, dh, dw, top, left;
};

#define NOWHERE 0xffffffffu

// Maximum of each window and its pixel, the first of equals; NaN wins. Padding never does.
extern "C" __global__ void max_pool(float* out, u32* index, const float* in, Window g, u32 channels, u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int ow = p % g.ow, oh = p / g.ow % g.oh;
  u32 n = p / g.ow / g.oh;
  float best = __int_as_float(0xff800000);
  u32 where = NOWHERE;
  for (int a = 0; a < g.kh; a++) {
    int h = oh * g.sh - g.top + a * g.dh;
    if (h < 0 || h >= g.h) continue;
    for (int b = 0; b < g.kw; b++) {
      int w = ow * g.sw - g.left + b * g.dw;
      if (w < 0 || w >= g.w) continue;
      float v = in[((n * g.h + h) * g.w + w) * channels + c];
      if (where == NOWHERE || v > best || v != v) best = v, where = h * g.w + w;
    }
  }
  out[i] = best;
  if (index) index[i] = where;
}

// Gradient of each pixel: the sum over the windows whose maximum it is.
extern "C" __global__ void max_pool_back(float* out, const float* dy, const u32* index, Window g, u32 channels,
                                         u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int w = p % g.w, h = p / g.w % g.h;
  u32 n = p / g.w / g.h, own = h * g.w + w;
  float sum = 0.f;
  for (int a = g.kh - 1; a >= 0; a--) {
    int y = h + g.top - a * g.dh;
    if (y < 0 || y % g.sh || y / g.sh >= g.oh) continue;
    for (int b = g.kw - 1; b >= 0; b--) {
      int x = w + g.left - b * g.dw;
      if (x < 0 || x % g.sw || x / g.sw >= g.ow) continue;
      u32 o = ((n * g.oh + y / g.sh) * g.ow + x / g.sw) * channels + c;
      if (index[o] == own) sum += dy[o];
    }
  }
  out[i] = sum;
}

// Average of each window; counts: divisor of each output pixel.
extern "C" __global__ void mean_pool(float* out, const float* in, const float* counts, Window g, u32 channels,
                                     u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int ow = p % g.ow, oh = p / g.ow % g.oh;
  u32 n = p / g.ow / g.oh;
  float sum = 0.f;
  for (int a = 0; a < g.kh; a++) {
    int h = oh * g.sh - g.top + a * g.dh;
    if (h < 0 || h >= g.h) continue;
    for (int b = 0; b < g.kw; b++) {
      int w = ow * g.sw - g.left + b * g.dw;
      if (w >= 0 && w < g.w) sum += in[((n * g.h + h) * g.w + w) * channels + c];
    }
  }
  out[i] = sum / counts[oh * g.ow + ow];
}

extern "C" __global__ void mean_pool_back(float* out, const float* dy, const float* counts, Window g, u32 channels,
                                          u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int w = p % g.w, h = p / g.w % g.h;
  u32 n = p / g.w / g.h;
  float sum = 0.f;
  for (int a = g.kh - 1; a >= 0; a--) {
    int y = h + g.top - a * g.dh;
    if (y < 0 || y % g.sh || y / g.sh >= g.oh) continue;
    for (int b = g.kw - 1; b >= 0; b--) {
      int x = w + g.left - b * g.dw;
      if (x < 0 || x % g.sw || x / g.sw >= g.ow) continue;
      u32 o = (y / g.sh) * g.ow + x / g.sw;
      sum += dy[(n * g.oh * g.ow + o) * channels + c] / counts[o];
    }
  }
  out[i] = sum;
}

// Depthwise convolution; weights [kh, kw, channels].
extern "C" __global__ void depthwise(float* out, const float* in, const float* weights, Window g, u32 channels,
                                     u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int ow = p % g.ow, oh = p / g.ow % g.oh;
  u32 n = p / g.ow / g.oh;
  float sum = 0.f;
  for (int a = 0; a < g.kh; a++) {
    int h = oh * g.sh - g.top + a * g.dh;
    if (h < 0 || h >= g.h) continue;
    for (int b = 0; b < g.kw; b++) {
      int w = ow * g.sw - g.left + b * g.dw;
      if (w >= 0 && w < g.w)
        sum += in[((n * g.h + h) * g.w + w) * channels + c] * weights[(a * g.kw + b) * channels + c];
    }
  }
  out[i] = sum;
}

extern "C" __global__ void depthwise_back(float* out, const float* dy, const float* weights, Window g, u32 channels,
                                          u32 total) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  u32 c = i % channels, p = i / channels;
  int w = p % g.w, h = p / g.w % g.h;
  u32 n = p / g.w / g.h;
  float sum = 0.f;
  for (int a = 0; a < g.kh; a++) {
    int y = h + g.top - a * g.dh;
    if (y < 0 || y % g.sh || y / g.sh >= g.oh) continue;
    for (int b = 0; b < g.kw; b++) {
      int x = w + g.left - b * g.dw;
      if (x < 0 || x % g.sw || x / g.sw >= g.ow) continue;
      sum += dy[((n * g.oh + y / g.sh) * g.ow + x / g.sw) * channels + c] * weights[(a * g.kw + b) * channels + c];
    }
  }
  out[i] = sum;
}

// out[row] = the `words` words at from[row]; one row of blocks per row.
extern "C" __global__ void gather(u32* out, const u64* from, u32 words) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < words) out[(u64)blockIdx.y * words + i] = ((const u32*)from[blockIdx.y])[i];
}

// The sum over a block of 1024 threads, returned to all of them.
__device__ double block_sum(double v) {
  __shared__ double part[32];
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
  double sum = 0.;
  for (int i = 0; i < 32; i++) sum += part[i];
  return sum;
}

// squares[image] (+)= sum of (grad sigma)^2, sigma is 1 if null: one block of 1024 threads per image.
extern "C" __global__ void latent_norm(double* squares, const float* grad, const float* sigma, u32 numel, int add) {
  const float* g = grad + (u64)blockIdx.x * numel;
  double sum = 0.;
  for (u32 i = threadIdx.x; i < numel; i += 1024) {
    double v = sigma ? g[i] * sigma[i] : g[i];
    sum += v * v;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = add ? squares[blockIdx.x] + sum : sum;
}

// delta -= length sqrt(numel) sigma grad / norm; moved = values + sigma delta. One row of blocks per image.
extern "C" __global__ void latent_move(float* moved, float* delta, const float* values, const float* grad,
                                       const float* sigma, const double* squares, u32 numel, float length) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= numel) return;
  u64 at = (u64)blockIdx.y * numel + i;
  double norm = sqrt(squares[blockIdx.y]);
  float factor = norm > 1e-30 ? (float)((double)length * sqrt((double)numel) / norm) : 0.f;
  float d = delta[at];
  if (grad) d -= factor * (grad[at] * sigma[i]);
  delta[at] = d;
  moved[at] = values[at] + sigma[i] * d;
}

// A step of sign descent on pixels, see kernels::pixels: one block of 1024 threads per image.
extern "C" __global__ void pixel_step(float* out, float* delta, const float* pixels, const float* grad,
                                      const float* mean, const float* std, u32 numel, u32 channels, float step,
                                      float radius) {
  u64 base = (u64)blockIdx.x * numel;
  double sum = 0.;
  for (u32 i = threadIdx.x; i < numel; i += 1024) {
    float d = delta[base + i], v = pixels[base + i] + d, g = grad ? grad[base + i] : 0.f;
    float sign = (g > 0.f) - (g < 0.f);
    if (v >= 0.f && v <= 1.f) d -= step * sign;
    delta[base + i] = d;
    sum += (double)d * d;
  }
  float norm = (float)sqrt(block_sum(sum));
  float factor = norm > radius ? radius / norm : 1.f;
  for (u32 i = threadIdx.x; i < numel; i += 1024) {
    float d = delta[base + i] * factor;
    delta[base + i] = d;
    float v = fminf(fmaxf(pixels[base + i] + d, 0.f), 1.f);
    out[base + i] = (v - mean[i % channels]) / std[i % channels];
  }
}

// Arithmetic of the layer: small vectors and matrices, row-major. candle's kernels for it come in modules of thousands,
// which the driver would compile on each new machine.

// out = a x + b y; y may be null. out may alias x or y.
extern "C" __global__ void blend(float* out, const float* x, const float* y, u32 n, float a, float b) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = y ? a * x[i] + b * y[i] : a * x[i];
}

// out[i, j] = in[i, j] by[i], or by[j] if `across`.
extern "C" __global__ void scale_lines(float* out, const float* in, const float* by, u32 n, u32 columns, int across) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] * by[across ? i % columns : i / columns];
}

// out[i, j] = in[i, j] - a[i] b[j]
extern "C" __global__ void less_outer(float* out, const float* in, const float* a, const float* b, u32 n, u32 columns) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] - a[i / columns] * b[i % columns];
}

// out[i] = sum over j of a[i, j] b[i, j]: one block of 1024 threads per row.
extern "C" __global__ void row_dots(float* out, const float* a, const float* b, u32 columns) {
  u64 base = (u64)blockIdx.x * columns;
  double sum = 0.;
  for (u32 i = threadIdx.x; i < columns; i += 1024) sum += (double)a[base + i] * b[base + i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = (float)sum;
}

// BatchNormalization as factor and summand per channel: scale / sqrt(var + eps), bias - mean factor. scale (default 1)
// and bias (default 0) may be null.
extern "C" __global__ void norm_line(float* factor, float* summand, const float* scale, const float* bias,
                                     const float* mean, const float* var, float eps, u32 n) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float f = (scale ? scale[i] : 1.f) / sqrtf(var[i] + eps);
  factor[i] = f;
  summand[i] = (bias ? bias[i] : 0.f) - mean[i] * f;
}

// Gradient with respect to `scale` of the above, from those with respect to the factor (dots) and the summand.
extern "C" __global__ void norm_line_back(float* out, const float* dots, const float* by_summand, const float* mean,
                                          const float* var, float eps, u32 n) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = (dots[i] - by_summand[i] * mean[i]) / sqrtf(var[i] + eps);
}

// A step of SGD on w, see train::optimizer; the first step starts the velocity.
extern "C" __global__ void sgd_step(float* w, float* velocity, const float* grad, u32 n, float lr, float momentum,
                                    float decay, int first) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float g = grad[i] + w[i] * decay;
  float v = first ? g : velocity[i] * momentum + g;
  velocity[i] = v;
  w[i] -= v * lr;
}

// A step of Adam on w, see train::optimizer: rate = lr / (1 - beta1^t), spread = 1 - beta2^t.
extern "C" __global__ void adam_step(float* w, float* m, float* v, const float* grad, u32 n, float beta1, float beta2,
                                     float rate, float spread, float eps, int first) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float g = grad[i];
  float a = (first ? 0.f : m[i] * beta1) + g * (1.f - beta1);
  float b = (first ? 0.f : v[i] * beta2) + g * g * (1.f - beta2);
  m[i] = a;
  v[i] = b;
  w[i] -= a * rate / (sqrtf(b / spread) + eps);
}

// Normalises pixels: (in - mean) / std by channel, channels last.
extern "C" __global__ void normalise(float* out, const float* in, const float* mean, const float* std, u32 n,
                                     u32 channels) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = (in[i] - mean[i % channels]) / std[i % channels];
}

// sums (+)= x, in f64
extern "C" __global__ void accumulate(double* sums, const float* x, u32 n, int add) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) sums[i] = (add ? sums[i] : 0.) + x[i];
}

// out[row] = in[row] / sqrt(squares[row]); one row of blocks per row.
extern "C" __global__ void unit_rows(float* out, const float* in, const double* squares, u32 numel) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  u64 at = (u64)blockIdx.y * numel + i;
  if (i < numel) out[at] = (float)(in[at] / (sqrt(squares[blockIdx.y]) + 1e-30));
}
