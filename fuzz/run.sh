#!/usr/bin/env bash
# Fuzzes one reader: fuzz/run.sh TARGET [SECONDS] [libFuzzer's options]. The stable compiler and a C++ compiler do;
# coverage is LLVM's own. What is found lies in fuzz/artifacts/TARGET, what was learned in fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=${2:-60}
shift $(($# < 2 ? $# : 2))

coverage="--cfg fuzzing -Cpasses=sancov-module"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$flag"
done
host=$(rustc -vV | sed -n 's/^host: //p')
# for the target alone: build scripts and macros stay as they are
RUSTFLAGS="$coverage" cargo build --release --target "$host" --bin "$target"

[ -d "seeds/$target" ] || "${POLARIZER_PYTHON:-python3}" seeds.py
mkdir -p "corpus/$target" "artifacts/$target"
exec "${CARGO_TARGET_DIR:-target}/$host/release/$target" "corpus/$target" "seeds/$target" \
    -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=1536 "$@"
