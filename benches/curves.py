#!/usr/bin/env python3
"""How the time of a training grows: with images, epochs, batch and threads. Prints a table, draws four curves.

    cargo build --release
    python benches/curves.py MODEL --data DIR [--preset cifar10] [--runs 2] [--json FILE] [--plot FILE.svg] [-- MORE OPTIONS]

A point is a whole `polarizer purify` with nothing held out; beside it stands the training alone (the report's
`train.seconds`: keeping the clean images is not in it, both phases are). All points are run once, in an order that
changes, then all again, so that a machine that grows slower harms them alike; the median counts.
Needs nothing but Python, and matplotlib for the plot.
"""
import argparse
import itertools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = {"images": 512, "epochs": 2, "batch": 128, "threads": os.cpu_count()}
POINTS = {
    "images": [128, 256, 512, 1024, 2048],
    "epochs": [1, 2, 4, 8],
    "batch": [16, 32, 64, 128, 256],
    "threads": [2 ** i for i in range(16) if 2 ** i <= os.cpu_count()],
}


def subset(data, count, folder):
    """A folder of links to `count` of the images, as many of each class as of the others."""
    classes = sorted(p for p in data.iterdir() if p.is_dir())
    rows = itertools.zip_longest(*(sorted(c.iterdir()) for c in classes))
    files = [f for f in itertools.chain.from_iterable(rows) if f][:count]
    if len(files) < count:
        raise SystemExit(f"{data}: {len(files)} images; {count} are needed")
    for file in files:
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).symlink_to(file.resolve())
    return folder


def run(args, point, data, folder):
    """Whole and training seconds of one command."""
    report = folder / "report.json"
    command = [args.polarizer, "purify", args.model, "-o", folder / "purified.onnx", "--force", "--data", data,
               "--preset", args.preset, "--holdout", 0, "--warmup", 1, "--epochs", point["epochs"],
               "--batch", point["batch"], "--threads", point["threads"], "--report", report, *args.extra]
    began = time.monotonic()
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}\nended with {done.returncode}")
    return seconds, json.loads(report.read_text())["train"]["seconds"]


def plot(path, rows, model):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(POINTS), figsize=(13, 3.2), constrained_layout=True)
    for axis, what in zip(axes, POINTS):
        mine = [r for r in rows if r["what"] == what]
        for key, label in (("whole", "whole command"), ("train", "training")):
            axis.plot([r["value"] for r in mine], [r[key] for r in mine], marker="o", label=label)
        axis.set_xlabel(what)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if what == "batch":
            axis.set_xscale("log", base=2)
    axes[0].set_ylabel("seconds")
    axes[0].legend()
    figure.suptitle(f"{model}; elsewhere {BASE['images']} images, 1 + {BASE['epochs']} epochs, batch "
                    f"{BASE['batch']}, {BASE['threads']} threads")
    figure.savefig(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--data", type=pathlib.Path, required=True)
    p.add_argument("--preset", default="cifar10")
    p.add_argument("--runs", type=int, default=2)
    p.add_argument("--polarizer", type=pathlib.Path, default=ROOT / "target/release/polarizer")
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--plot", type=pathlib.Path)
    # argparse takes positional arguments in one stretch: what follows -- is for the tool
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = p.parse_args(sys.argv[1:end])
    args.extra = sys.argv[end + 1:]
    if not args.polarizer.exists():
        raise SystemExit(f"{args.polarizer} is not there: cargo build --release")
    points = [(what, value) for what, values in POINTS.items() for value in values]
    seen = {point: [] for point in points}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        counts = {*POINTS["images"], BASE["images"]}
        data = {count: subset(args.data, count, folder / str(count)) for count in counts}
        for turn in range(args.runs):
            order = random.Random(turn).sample(points, len(points))
            for what, value in order:
                point = {**BASE, what: value}
                seen[what, value].append(run(args, point, data[point["images"]], folder))
    rows = []
    print("| what | value | whole, s | training, s |\n| --- | --: | --: | --: |")
    for (what, value), times in seen.items():
        whole, train = (statistics.median(t[i] for t in times) for i in (0, 1))
        rows.append({"what": what, "value": value, "whole": whole, "train": train})
        print(f"| {what} | {value} | {whole:.2f} | {train:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(args.plot, rows, args.model.name)


if __name__ == "__main__":
    main()
