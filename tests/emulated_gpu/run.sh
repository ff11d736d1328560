#!/usr/bin/env bash
# Builds the emulated GPU and runs tests/gpu.rs on it; no GPU and no driver is needed.
#   run.sh [TEST-ARGUMENT...]     e.g. run.sh --skip trainings
# CUDA_HOME: a CUDA toolkit; CUDNN_HOME: cuDNN, where that lies elsewhere. EMULATED_GPU: the folder for what is built,
# target/emulated_gpu where it is not set. What was asked of the GPU is counted in EMULATED_GPU_LOG, asked.log there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
: "${CUDA_HOME:?a CUDA toolkit}"
export CUDNN_HOME=${CUDNN_HOME:-$CUDA_HOME} CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
built=${CARGO_TARGET_DIR:-target}
to=${EMULATED_GPU:-$built/emulated_gpu}
mkdir -p "$to"
to=$(cd "$to" && pwd)
export PATH=$CUDA_HOME/bin:$PATH
cargo build --release --features cuda --lib
"$here/build.sh" "$to" "$built"/release/deps/lib{cudarc,candle_core,polarizer}-*.rlib
export LIBRARY_PATH=$to/link:$CUDA_HOME/lib:$CUDNN_HOME/lib${LIBRARY_PATH:+:$LIBRARY_PATH}
cargo test --release --features cuda --test gpu --no-run
export LD_LIBRARY_PATH=$to:$CUDA_HOME/lib OMP_WAIT_POLICY=passive EMULATED_GPU_LOG=${EMULATED_GPU_LOG:-$to/asked.log}
cargo test --release --features cuda --test gpu -- --nocapture "$@"
cat "$EMULATED_GPU_LOG"
