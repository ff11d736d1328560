#include "fibers.h"

#include <cstdlib>

namespace fibers {

Block block;

unsigned in_turn(unsigned i, unsigned count) {
  static const bool backwards = getenv("EMULATED_GPU_BACKWARDS");
  return backwards ? count - 1 - i : i;
}

// Saves what a function must keep and its stack at `*from`, and goes on where `to` was saved. (x86-64, System V.)
extern "C" void switch_fiber(void **from, void *to);
asm(R"(
.globl switch_fiber
switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

static void give_way(Fiber &self) { switch_fiber(&self.stack_pointer, block.scheduler); }

static void begin() {
  block.body(block.given);
  Fiber &self = block.threads[block.running];
  self.waits = Waits::Ended;
  give_way(self);
  abort();
}

void wait_for_block() {
  Fiber &self = block.threads[block.running];
  self.waits = Waits::Block;
  give_way(self);
}

void wait_for_lanes(unsigned lanes) {
  unsigned warp = block.running / 32, first = warp * 32;
  Fiber *threads = block.threads + first;
  unsigned &arrived = block.arrived[warp];
  arrived |= 1u << block.running % 32;
  Fiber &self = block.threads[block.running];
  self.waits = Waits::Lanes;
  unsigned there = 0;
  for (unsigned lane = 0; lane < 32 && first + lane < block.count; lane++)
    if (lanes >> lane & 1 && threads[lane].waits != Waits::Ended) there |= 1u << lane;
  if ((arrived & there) == there) {
    arrived &= ~there;
    for (unsigned lane = 0; lane < 32; lane++)
      if (there >> lane & 1) threads[lane].waits = Waits::No;
  }
  give_way(self);
}

void run(unsigned count, void (*body)(void *), void *given, void (*enter)(unsigned)) {
  if (count > Block::MOST) abort();
  block.count = count;
  block.body = body;
  block.given = given;
  for (unsigned i = 0; i < count; i++) {
    char *&stack = block.stacks[i];
    if (!stack) stack = (char *)aligned_alloc(64, Block::STACK);
    uint64_t *top = (uint64_t *)(stack + Block::STACK) - 1; // as after a call
    *top = 0;
    *--top = (uint64_t)&begin;
    block.threads[i] = {top - 6, Waits::No, 0};
  }
  for (unsigned &arrived : block.arrived) arrived = 0;
  for (;;) {
    bool ran = false, ended = true;
    for (unsigned turn = 0; turn < count; turn++) {
      unsigned i = in_turn(turn, count);
      if (block.threads[i].waits == Waits::No) {
        block.running = i;
        enter(i);
        switch_fiber(&block.scheduler, block.threads[i].stack_pointer);
        ran = true;
      }
      ended &= block.threads[i].waits == Waits::Ended;
    }
    if (ended) return;
    if (ran) continue;
    for (unsigned i = 0; i < count; i++) {
      if (block.threads[i].waits == Waits::Lanes) abort(); // for others that never come
      if (block.threads[i].waits == Waits::Block) block.threads[i].waits = Waits::No;
    }
  }
}

} // namespace fibers
