#!/usr/bin/env bash
# Builds the emulated GPU: the functions of the CUDA driver, cuBLAS, cuRAND and cuDNN that polarizer calls, on the processor.
# run.sh does this and runs the tests with it; see README.md beside this.
#   build.sh DIR BINARY...     CUDA_HOME and CUDNN_HOME: the toolkit's headers; BINARY: what shall run with it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=${1:?a folder}
shift
mkdir -p "$to"
include=(-I "${CUDA_HOME:?the CUDA toolkit}/include" -I "${CUDNN_HOME:-$CUDA_HOME}/include")
# whatever else the binaries ask for, or the runtime has: it is there, and refuses
parts=()
for source in driver kernels candle libraries fibers; do
  aligned=()
  # a GPU stops where four floats at a time do not lie at a multiple of 16 bytes, and so does this
  [ $source = kernels ] && aligned=(-fsanitize=alignment -fsanitize-undefined-trap-on-error)
  g++ -std=c++17 -O3 -march=native -ffast-math -fno-finite-math-only -fopenmp -fPIC -Wall -Wno-unused-function "${aligned[@]}" "${include[@]}" -c "$here/$source.cpp" -o "$to/$source.o"
  parts+=("$to/$source.o")
done
g++ -shared -fopenmp -o "$to/libemulated.so" "${parts[@]}"
{
  for binary in "$@"; do nm --undefined-only "$binary" 2> /dev/null || nm -D --undefined-only "$binary"; done
  nm -D --defined-only "$CUDA_HOME"/lib/libcudart.so.*
} | sed 's/@.*//' |
  awk '$NF ~ /^(cu[A-Z]|cublas|cudnn|curand|cuda[A-Z]|__cuda)/ {print $NF}' | sort -u > "$to/asked"
nm -D --defined-only "$to/libemulated.so" | awk '{print $NF}' | sort -u > "$to/there"
{
  echo '#include <cstdio>'
  comm -23 "$to/asked" "$to/there" | while read -r name; do
    echo "extern \"C\" int $name() { fprintf(stderr, \"emulated GPU: no $name\\n\"); return 801; }"
  done
} > "$to/refused.cpp"
g++ -O1 -fPIC -c "$to/refused.cpp" -o "$to/refused.o"
g++ -shared -fopenmp -o "$to/libemulated.so" "${parts[@]}" "$to/refused.o"
for name in libcuda.so.1 libcublas.so.13 libcudnn.so.9 libcurand.so.10 libcudart.so.13; do
  ln -sf libemulated.so "$to/$name"
done
# to link with where there is no driver; a program linked so runs with a real one, too
mkdir -p "$to/link"
grep -E '^cu[A-Z]' "$to/asked" | sed 's/.*/int &(void) { return 801; }/' > "$to/link/driver.c"
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$to/link/libcuda.so" "$to/link/driver.c"
