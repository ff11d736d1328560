// Candle's kernels, by what they do: those that a training here comes by. A shape and strides that are null: contiguous.
#include "driver.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  bfloat16(float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    bits = v != v ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  }
  operator float() const {
    uint32_t u = (uint32_t)bits << 16;
    float v;
    memcpy(&v, &u, 4);
    return v;
  }
};

template <class T> T given(void *argument) { return *(T *)argument; }

// Where element `i` of a value with these dimensions and strides lies.
size_t place(size_t i, size_t rank, const size_t *dims, const size_t *strides) {
  size_t at = 0;
  for (size_t d = rank; d-- > 0; i /= dims[d]) at += i % dims[d] * strides[d];
  return at;
}

// (count, rank, dims and strides, in, out)
template <class From, class To, To (*F)(From)> void unary(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), rank = given<size_t>(a[1]);
  const size_t *info = given<const size_t *>(a[2]);
  const From *in = given<const From *>(a[3]);
  To *out = given<To *>(a[4]);
  for (size_t i = 0; i < count; i++) {
    size_t at = info ? place(i, rank, info, info + rank) : i;
    out[i] = F(in ? in[at] : (From)out[i]);
  }
}

// (count, rank, dims and both strides, left, right, out)
template <class T, T (*F)(T, T)> void binary(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), rank = given<size_t>(a[1]);
  const size_t *info = given<const size_t *>(a[2]);
  const T *left = given<const T *>(a[3]), *right = given<const T *>(a[4]);
  T *out = given<T *>(a[5]);
  for (size_t i = 0; i < count; i++) {
    size_t l = info ? place(i, rank, info, info + rank) : i, r = info ? place(i, rank, info, info + 2 * rank) : i;
    out[i] = F(left[l], right[r]);
  }
}

// (count, rank, dims and strides, in, out, factor, summand)
template <class T> void affine(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), rank = given<size_t>(a[1]);
  const size_t *info = given<const size_t *>(a[2]);
  const T *in = given<const T *>(a[3]);
  T *out = given<T *>(a[4]), factor = given<T>(a[5]), more = given<T>(a[6]);
  for (size_t i = 0; i < count; i++) {
    size_t at = info ? place(i, rank, info, info + rank) : i;
    out[i] = (in ? in[at] : out[i]) * factor + more;
  }
}

// (count, rank, dims and strides, exponent, in, out)
template <class T> void power(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), rank = given<size_t>(a[1]);
  const size_t *info = given<const size_t *>(a[2]);
  T by = given<T>(a[3]), *out = given<T *>(a[5]);
  const T *in = given<const T *>(a[4]);
  for (size_t i = 0; i < count; i++) {
    size_t at = info ? place(i, rank, info, info + rank) : i;
    out[i] = std::pow(in ? in[at] : out[i], by);
  }
}

// (elements in, or out where they are `small`; elements a sum, rank, dims and strides, in, out)
template <class T, bool small> void sum(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), each = given<size_t>(a[1]), rank = given<size_t>(a[2]);
  const size_t *info = given<const size_t *>(a[3]);
  const T *in = given<const T *>(a[4]);
  T *out = given<T *>(a[5]);
  for (size_t to = 0; to < (small ? count : count / each); to++) {
    T all = 0;
    for (size_t i = to * each; i < (to + 1) * each; i++) all += in[place(i, rank, info, info + rank)];
    out[to] = all;
  }
}

// (count, rank, dims and strides of the indices, indices, in, out, before, rows, chosen, behind); contiguous ones alone
template <class T> void rows(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]);
  const uint32_t *index = given<const uint32_t *>(a[3]);
  const T *in = given<const T *>(a[4]);
  T *out = given<T *>(a[5]);
  size_t all = given<size_t>(a[7]), chosen = given<size_t>(a[8]), behind = given<size_t>(a[9]);
  for (size_t i = 0; i < count; i++) {
    size_t at = i / (chosen * behind) * all * behind + index[i / behind % chosen] * behind + i % behind;
    out[i] = in[at];
  }
}

// (from, to, rows, words a row, stride there, stride here)
template <class T> void rectangle(void **a, Dim, Dim) {
  const T *from = given<const T *>(a[0]);
  T *to = given<T *>(a[1]);
  size_t high = given<uint32_t>(a[2]), wide = given<uint32_t>(a[3]), s = given<uint32_t>(a[4]), d = given<uint32_t>(a[5]);
  for (size_t i = 0; i < high; i++) memcpy(to + i * d, from + i * s, wide * sizeof(T));
}

// (to, value, count)
template <class T> void fill(void **a, Dim, Dim) {
  T *to = given<T *>(a[0]), value = given<T>(a[1]);
  for (size_t i = 0, n = given<size_t>(a[2]); i < n; i++) to[i] = value;
}

// (count, rank, dims and strides, value, to)
template <class T> void set(void **a, Dim, Dim) {
  size_t count = given<size_t>(a[0]), rank = given<size_t>(a[1]);
  const size_t *info = given<const size_t *>(a[2]);
  T value = given<T>(a[3]), *to = given<T *>(a[4]);
  for (size_t i = 0; i < count; i++) to[info ? place(i, rank, info, info + rank) : i] = value;
}

template <class From, class To> To cast(From v) { return (To)v; }
template <class T> T square(T v) { return v * v; }
template <class T> T root(T v) { return std::sqrt(v); }
template <class T> T exponential(T v) { return std::exp(v); }
template <class T> T logarithm(T v) { return std::log(v); }
template <class T> T minus(T v) { return -v; }
template <class T> T size(T v) { return std::abs(v); }
template <class T> T inverse(T v) { return 1 / v; }
template <class T> T positive(T v) { return v > 0 ? v : 0; }
template <class T> T add(T a, T b) { return a + b; }
template <class T> T subtract(T a, T b) { return a - b; }
template <class T> T multiply(T a, T b) { return a * b; }
template <class T> T divide(T a, T b) { return a / b; }
template <class T> T most(T a, T b) { return a > b ? a : b; }
template <class T> T least(T a, T b) { return a < b ? a : b; }

#define FLOATS(T, t)                                                                               \
  Kernel t##_[] = {                                                                                \
      {"ucopy_" #t, unary<T, T, cast<T, T>>},      {"usqr_" #t, unary<T, T, square<T>>},           \
      {"usqrt_" #t, unary<T, T, root<T>>},         {"uexp_" #t, unary<T, T, exponential<T>>},      \
      {"ulog_" #t, unary<T, T, logarithm<T>>},     {"uneg_" #t, unary<T, T, minus<T>>},            \
      {"uabs_" #t, unary<T, T, size<T>>},          {"urecip_" #t, unary<T, T, inverse<T>>},        \
      {"urelu_" #t, unary<T, T, positive<T>>},     {"upowf_" #t, power<T>},                        \
      {"badd_" #t, binary<T, add<T>>},             {"bsub_" #t, binary<T, subtract<T>>},           \
      {"bmul_" #t, binary<T, multiply<T>>},        {"bdiv_" #t, binary<T, divide<T>>},             \
      {"bmaximum_" #t, binary<T, most<T>>},        {"bminimum_" #t, binary<T, least<T>>},          \
      {"affine_" #t, affine<T>},                   {"fast_sum_" #t, sum<T, false>},                \
      {"fast_sum_small_" #t, sum<T, true>},        {"is_u32_" #t, rows<T>},                        \
      {"copy2d_" #t, rectangle<T>},                {"fill_" #t, fill<T>},                          \
      {"const_set_" #t, set<T>},                                                                   \
  };
FLOATS(float, f32)
FLOATS(double, f64)

Kernel others[] = {
    {"ucopy_u32", unary<uint32_t, uint32_t, cast<uint32_t, uint32_t>>},
    {"ucopy_bf16", unary<bfloat16, bfloat16, cast<bfloat16, bfloat16>>},
    {"copy2d_u32", rectangle<uint32_t>},
    {"copy2d_bf16", rectangle<bfloat16>},
    {"fill_u32", fill<uint32_t>},
    {"is_u32_u32", rows<uint32_t>},
    {"cast_f32_f64", unary<float, double, cast<float, double>>},
    {"cast_f64_f32", unary<double, float, cast<double, float>>},
    {"cast_u32_f32", unary<uint32_t, float, cast<uint32_t, float>>},
    {"cast_f32_bf16", unary<float, bfloat16, cast<float, bfloat16>>},
    {"cast_bf16_f32", unary<bfloat16, float, cast<bfloat16, float>>},
};

} // namespace
