// A block of threads of a kernel on one thread of the processor: each is a fiber, and gives way where it waits for others. One
// block runs at a time.
#pragma once
#include <cstdint>
#include <cstddef>

namespace fibers {

// What a thread of a block waits for.
enum class Waits { No, Block, Lanes, Ended };

struct Fiber {
  void *stack_pointer;
  Waits waits;
  unsigned turn; // exchanges so far
};

struct Block {
  static constexpr unsigned MOST = 1024;
  static constexpr size_t STACK = (16 << 10) + 192; // not all at the same place of a cache
  unsigned count, running;
  Fiber threads[MOST];
  char *stacks[MOST];
  // By warp, the lanes that wait for others.
  unsigned arrived[MOST / 32];
  void *scheduler;
  void (*body)(void *);
  void *given;
  uint64_t exchanged[2][MOST];
};

extern Block block;

// The `i`th of so many, or, where EMULATED_GPU_BACKWARDS is set, the `i`th from the end: threads and blocks run in that order.
unsigned in_turn(unsigned i, unsigned count);

// Gives way until all threads of the block are here.
void wait_for_block();

// Gives way until all of these lanes of the thread's warp are here.
void wait_for_lanes(unsigned lanes);

// `body(given)` for each of `count` threads; `enter` says which one is about to run on.
void run(unsigned count, void (*body)(void *), void *given, void (*enter)(unsigned));

} // namespace fibers
