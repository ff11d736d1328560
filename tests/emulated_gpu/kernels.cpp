// polarizer's own kernels, src/kernels/cuda/kernels.cu as it is, compiled for the processor.
#include "driver.h"
#include "fibers.h"

#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

struct alignas(16) float4 {
  float x, y, z, w;
};

static Dim threadIdx, blockIdx, blockDim, gridDim;

#define __global__ __attribute__((visibility("hidden")))
#define __device__ static
#define __shared__ static

static void __syncthreads() { fibers::wait_for_block(); }

// What the lane `from` of those in `mask` gives.
template <class T> static T exchange(unsigned mask, T mine, unsigned from) {
  static_assert(sizeof(T) <= 8, "");
  auto &b = fibers::block;
  unsigned self = b.running, turn = ++b.threads[self].turn & 1;
  memcpy(&b.exchanged[turn][self], &mine, sizeof mine);
  fibers::wait_for_lanes(mask);
  T theirs;
  memcpy(&theirs, &b.exchanged[turn][(self & ~31u) + from], sizeof theirs);
  return theirs;
}

template <class T> static T __shfl_xor_sync(unsigned mask, T mine, unsigned with) {
  return exchange(mask, mine, (fibers::block.running & 31) ^ with);
}

static unsigned __ballot_sync(unsigned mask, bool mine) {
  auto &b = fibers::block;
  unsigned self = b.running, turn = ++b.threads[self].turn & 1, bits = 0;
  b.exchanged[turn][self] = mine;
  fibers::wait_for_lanes(mask);
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1 && (self & ~31u) + lane < b.count) bits |= (unsigned)b.exchanged[turn][(self & ~31u) + lane] << lane;
  return bits;
}

static float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

#include "../../src/kernels/cuda/kernels.cu"

namespace {

void enter(unsigned i) { threadIdx = {i % blockDim.x, i / blockDim.x, 0}; }

// Threads that wait for each other are fibers, others a loop.
template <bool wait, class... A, size_t... I>
void over(void (*kernel)(A...), void **arguments, Dim grid, Dim size, std::index_sequence<I...>) {
  using Call = std::tuple<void (*)(A...), A...>;
  Call given(kernel, *(A *)arguments[I]...);
  auto body = [](void *from) {
    Call &given = *(Call *)from;
    std::get<0>(given)(std::get<I + 1>(given)...);
  };
  blockDim = size;
  gridDim = grid;
  using fibers::in_turn;
  unsigned threads = size.x * size.y;
  for (unsigned y = 0; y < grid.y; y++)
    for (unsigned x = 0; x < grid.x; x++) {
      blockIdx = {in_turn(x, grid.x), in_turn(y, grid.y), 0};
      if (wait) {
        fibers::run(threads, body, &given, enter);
        continue;
      }
      for (unsigned i = 0; i < threads; i++) {
        enter(in_turn(i, threads));
        body(&given);
      }
    }
}

template <bool wait, class... A> void start(void (*kernel)(A...), void **arguments, Dim grid, Dim size) {
  over<wait>(kernel, arguments, grid, size, std::index_sequence_for<A...>());
}

#define ALONE(name) \
  Kernel name##_(#name, [](void **a, Dim g, Dim b) { start<false>(name, a, g, b); });
#define TOGETHER(name) \
  Kernel name##_(#name, [](void **a, Dim g, Dim b) { start<true>(name, a, g, b); });

// a mask is put together by several threads
Kernel pass4_("pass4", [](void **a, Dim g, Dim b) { *(void **)a[6] ? start<true>(pass4, a, g, b) : start<false>(pass4, a, g, b); });
Kernel pass1_("pass1", [](void **a, Dim g, Dim b) { *(void **)a[6] ? start<true>(pass1, a, g, b) : start<false>(pass1, a, g, b); });
ALONE(apply)
ALONE(apply_back)
ALONE(gate)
TOGETHER(sum_rows)
ALONE(max_pool)
ALONE(max_pool_back)
ALONE(mean_pool)
ALONE(mean_pool_back)
ALONE(depthwise)
ALONE(depthwise_back)
ALONE(gather)
TOGETHER(latent_norm)
ALONE(latent_move)
TOGETHER(pixel_step)
ALONE(blend)
ALONE(scale_lines)
ALONE(less_outer)
TOGETHER(row_dots)
ALONE(norm_line)
ALONE(norm_line_back)
ALONE(sgd_step)
ALONE(adam_step)
ALONE(normalise)
ALONE(accumulate)
ALONE(unit_rows)

} // namespace
