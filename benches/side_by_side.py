#!/usr/bin/env python3
"""The Rust tool and the reference in turn: same file, images, batch, epochs and threads, nothing held out.

    cargo build --release
    python benches/side_by_side.py fixtures/model.onnx --data fixtures/images/clean --test fixtures/images/test \
        --triggered fixtures/images/triggered --target disc --site /layer4/layer4.1/conv1/Conv --epochs 10 --runs 3

Each run is one whole process of each, the order changing from run to run so that a machine that
grows slower harms both. Seconds are said for the whole command and for training alone (statistics
and warm-up included; the Rust tool's `train.seconds`, the reference's time between loading and the
last measurement); a ratio above 1 says that the Rust tool is the quicker one. Peak memory is what the
operating system says of each process (the largest resident set).
`--out` writes a folder of the form of `benches/results`.
Both train from the same start with the same procedure but shuffle differently, so ACC and ASR agree
only roughly. Needs what benches/reference/npd_torch.py needs; Linux or macOS.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "benches/reference/npd_torch.py"


def run(command, threads):
    """Seconds, peak MiB and standard output of one process."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(c) for c in command], stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{text}\nended with {process.returncode}")
    peak = usage.ru_maxrss / (2 ** 20 if sys.platform == "darwin" else 2 ** 10)
    return seconds, peak, text


def tool(args, seed, folder):
    command = [args.polarizer, "purify", args.model, "-o", folder / "purified.onnx", "--data", args.data,
               "--site", args.site, "--preset", args.preset, "--holdout", 0, "--warmup", args.warmup,
               "--epochs", args.epochs, "--batch", args.batch, "--seed", seed, "--threads", args.threads,
               "--report", folder / "report.json", "--force"]
    if args.test:
        command += ["--test", args.test]
    if args.triggered:
        command += ["--triggered", args.triggered, "--target", args.target]
    seconds, peak, _ = run(command + args.extra, args.threads)
    report = json.loads((folder / "report.json").read_text())
    return {"who": "polarizer", "seed": seed, "seconds": seconds, "train": report["train"]["seconds"], "peak_mib": peak,
            "before": report["before"], "after": report["after"]}


def reference(args, seed):
    command = [args.python, REFERENCE, args.model, "--clean", args.data, "--site", args.site.removeprefix("node:"),
               "--preset", args.preset, "--warmup", args.warmup, "--epochs", args.epochs, "--batch", args.batch,
               "--seed", seed, "--threads", args.threads, "--device", "cpu"]
    if args.test:
        command += ["--test", args.test]
    if args.triggered:
        command += ["--triggered", args.triggered, "--target", args.target]
    seconds, peak, text = run(command, args.threads)
    rows = {row["phase"]: row for row in map(json.loads, text.splitlines())}
    return {"who": "reference", "seed": seed, "seconds": seconds, "train": rows["after"]["seconds"], "peak_mib": peak,
            "before": rows["before"], "after": rows["after"]}


def line(row):
    def rates(m):
        return " / ".join("  -  " if m.get(k) is None else f"{m[k]:5.2f}" for k in ("acc", "asr", "ra"))
    print(f"{row['who']:9}  seed {row['seed']}  whole {row['seconds']:8.2f} s  training {row['train']:8.2f} s  "
          f"peak {row['peak_mib']:6.0f} MiB  ACC / ASR / RA {rates(row['before'])} -> {rates(row['after'])}", flush=True)


def for_table(row):
    """A run as a row of `side_by_side.csv`."""
    figures = {key: "" if row["after"].get(key) is None else f"{row['after'][key]:.2f}" for key in table.FIGURES}
    return {"who": row["who"], "seed": str(row["seed"]), "whole": f"{row['seconds']:.1f}", "training": f"{row['train']:.1f}",
            "peak_mib": f"{row['peak_mib']:.0f}", **figures}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--data", required=True)
    p.add_argument("--test")
    p.add_argument("--triggered")
    p.add_argument("--target", default="0")
    p.add_argument("--site", required=True, help="a node's name: the reference finds no site by itself")
    p.add_argument("--preset", default="cifar10")
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--epochs", type=int, default=50)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--polarizer", type=pathlib.Path, default=ROOT / "target/release/polarizer")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--json", type=pathlib.Path, help="write all rows and the medians here")
    p.add_argument("--out", type=pathlib.Path, help="a folder of the form of benches/results")
    # argparse takes positional arguments in one stretch: what follows -- is for the tool
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = p.parse_args(sys.argv[1:end])
    args.extra = sys.argv[end + 1:]
    if not args.polarizer.exists():
        raise SystemExit(f"{args.polarizer} is not there: cargo build --release")
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(args.runs):
            jobs = [lambda: tool(args, index, pathlib.Path(folder)), lambda: reference(args, index)]
            rows = {}
            for job in jobs if index % 2 == 0 else reversed(jobs):
                row = job()
                rows[row["who"]] = row
                line(row)
            ours, theirs = rows["polarizer"], rows["reference"]
            pairs.append((ours, theirs))
            print(f"pair {index + 1}: reference / polarizer: whole {theirs['seconds'] / ours['seconds']:.2f}, "
                  f"training {theirs['train'] / ours['train']:.2f}", flush=True)
    medians = {}
    for key in ("seconds", "train", "peak_mib"):
        medians[key] = {who: statistics.median(pair[i][key] for pair in pairs)
                        for i, who in enumerate(("polarizer", "reference"))}
    for key, name in (("seconds", "whole"), ("train", "training")):
        medians[key]["ratio"] = statistics.median(theirs[key] / ours[key] for ours, theirs in pairs)
        m = medians[key]
        print(f"median, {name}: polarizer {m['polarizer']:.2f} s, reference {m['reference']:.2f} s, ratio {m['ratio']:.2f}")
    if args.out:
        rows = [for_table(row) for pair in pairs for row in pair]
        table.new_run(args.out, "The published recipe beside the PyTorch reference", {
            "side_by_side.csv": (rows, None, ["rows"])})
    if args.json:
        args.json.write_text(json.dumps({"medians": medians, "pairs": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
