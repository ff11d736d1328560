// What the parts of the emulated GPU share: kernels by name, and what was asked of each part, counted.
#pragma once
#include <cstddef>
#include <string>

struct Dim {
  unsigned x, y, z;
};

// Runs a kernel over a grid of blocks; arguments as cuLaunchKernel has them.
typedef void (*Run)(void **arguments, Dim grid, Dim block);

struct Kernel {
  Kernel(const char *name, Run run);
};

// Counts a call, and `bytes` or seconds that go with it.
void count(const std::string &what, double amount = 0);
