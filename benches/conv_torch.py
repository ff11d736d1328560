"""The convolutions of conv_shapes.txt in PyTorch, float32, beside those of `cargo bench --bench kernels`.

    python benches/conv_torch.py [--threads N] [--rounds N] [--only TEXT]

Both run in turn, `rounds` times, on the same number of threads; the best of each counts. PyTorch is measured in its
default layout and in channels_last; the ratio is ours over the better of the two.
"""

import argparse
import os
import pathlib
import subprocess
import time

import torch

HERE = pathlib.Path(__file__).parent
BATCH = 128


def best(f):
    f()
    start, best, runs = time.perf_counter(), float("inf"), 0
    while runs < 3 or time.perf_counter() - start < 0.3:
        one = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - one)
        runs += 1
    return best


def measure(line):
    """GFLOP/s: forward and input gradient in the default layout, the same in channels_last."""
    c, o, size, kernel, stride, groups = map(int, line.split())
    pad = (kernel - 1) // 2
    x = torch.rand(BATCH, c, size, size) - 0.5
    w = torch.rand(o, c // groups, kernel, kernel) - 0.5
    y = torch.nn.functional.conv2d(x, w, None, stride, pad, 1, groups)
    dy = torch.rand_like(y) - 0.5
    operations = 2 * y.numel() * c // groups * kernel * kernel / 1e9
    speeds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x, w, dy = (t.contiguous(memory_format=layout) for t in (x, w, dy))
        forward = best(lambda: torch.nn.functional.conv2d(x, w, None, stride, pad, 1, groups))
        gradient = best(
            lambda: torch.ops.aten.convolution_backward(
                dy, x, w, None, (stride,) * 2, (pad,) * 2, (1, 1), False, (0, 0), groups, (True, False, False)
            )
        )
        speeds += [operations / forward, operations / gradient]
    return speeds


def ours(threads, only):
    command = ["cargo", "bench", "--bench", "kernels", "--", *([only] if only else [])]
    env = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    text = subprocess.run(command, cwd=HERE.parent, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line and not line.startswith("#")]
    return {row[0]: [float(row[1]), float(row[2])] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="shapes whose line contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = (HERE / "conv_shapes.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#") and options.only in line]
    table = {line: [0.0] * 6 for line in lines}
    for _ in range(options.rounds):
        mine = ours(options.threads, options.only)
        for line in lines:
            table[line] = [max(a, b) for a, b in zip(table[line], mine[line] + measure(line))]
    print(f"GFLOP/s, {options.threads} threads, batch {BATCH}, torch {torch.__version__}\n")
    print("| in | out | size | kernel | stride | groups | forward | torch | channels_last | ratio "
          "| gradient | torch | channels_last | ratio |")
    print("|" + " --: |" * 14)
    ratios = []
    for line, (f, g, tf, tg, cf, cg) in table.items():
        ratios += [f / max(tf, cf), g / max(tg, cg)]
        cells = [*line.split(), f"{f:.1f}", f"{tf:.1f}", f"{cf:.1f}", f"{ratios[-2]:.2f}"]
        print("| " + " | ".join([*cells, f"{g:.1f}", f"{tg:.1f}", f"{cg:.1f}", f"{ratios[-1]:.2f}"]) + " |")
    print(f"\nratio: mean {sum(ratios) / len(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
