#!/usr/bin/env python3
"""Memory and first line of progress on a folder of 100,000 images of 224x224.

    python benches/many_images.py make DIR [--count 100000]     # the images, and a ResNet-18 of random weights (torch, torchvision)
    python benches/many_images.py run BINARY DIR --csv FILE [--seconds 120]

`make` writes 2,000 different JPEG files and links them under as many names as are wanted, 10 class folders and, in `flat`,
none. `run` starts each command, notes when its first line of progress comes, and its peak of resident memory within the
given seconds (then it is interrupted; 0: until it ends). What the lowered model takes is the peak of the same command on
the first 16 images of each class.
"""
import argparse
import csv
import os
import pathlib
import signal
import subprocess
import time

DIFFERENT = 2000
CLASSES = 10


def make(out, count):
    import numpy as np
    import torch
    import torchvision
    from PIL import Image

    rng = np.random.default_rng(0)
    store = out / "store"
    store.mkdir(parents=True)
    for i in range(DIFFERENT):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((224, 224), Image.BICUBIC)
        noisy = np.asarray(picture, np.int16) + rng.integers(-16, 17, (224, 224, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(store / f"{i}.jpg", quality=90)
    for part, n in (("many", count), ("few", 16 * CLASSES)):
        for i in range(n):
            folder = out / part / f"c{i % CLASSES}"
            if i < CLASSES:
                folder.mkdir(parents=True)
            os.link(store / f"{i % DIFFERENT}.jpg", folder / f"{i:06d}.jpg")
        flat = out / f"flat-{part}"
        flat.mkdir()
        for i in range(n):
            os.link(store / f"{i % DIFFERENT}.jpg", flat / f"{i:06d}.jpg")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=CLASSES).eval()
    names = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": {"input": {0: "N"}, "logits": {0: "N"}}}
    torch.onnx.export(net, torch.zeros(1, 3, 224, 224), str(out / "resnet18.onnx"), dynamo=False, **names)


def peak(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def watched(command, seconds):
    """Seconds to the first line on stderr, peak MiB, seconds in all, how it ended."""
    began = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.set_blocking(process.stderr.fileno(), False)
    first, most, said = None, 0.0, ""
    while process.poll() is None:
        try:
            most = max(most, peak(process.pid))
        except FileNotFoundError:
            break
        text = (process.stderr.read() or b"").decode()
        said += text
        if text and first is None:
            first = time.time() - began
        if seconds and time.time() - began > seconds:
            process.send_signal(signal.SIGINT)
            seconds = 0
        time.sleep(0.02)
    said += (process.stderr.read() or b"").decode()
    last = said.strip().splitlines()[-1:] or [""]
    return first, most, time.time() - began, process.wait(), last[0]


def run(arguments):
    out = pathlib.Path(arguments.dir)
    model, pixels = str(out / "resnet18.onnx"), ["--preset", "imagenet", "--accept-preprocessing"]
    commands = {
        "evaluate": lambda part: ["evaluate", model, "--test", str(out / part), *pixels],
        "scan --max-images 2500": lambda part: ["scan", model, "--data", str(out / f"flat-{part}"), "--max-images", "2500", *pixels],
    }
    with open(arguments.csv, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["command", "images", "first line after s", "peak MiB", "seconds", "exit code", "last line"])
        for name, command in commands.items():
            for part in ("few", "many"):
                first, most, seconds, code, last = watched([arguments.binary, *command(part)], arguments.seconds if part == "many" else 0)
                count = sum(len(files) for _, _, files in os.walk(out / part))
                row = [name, count, "" if first is None else f"{first:.2f}", f"{most:.0f}", f"{seconds:.1f}", code, last.replace(str(out), "DIR")]
                rows.writerow(row)
                print(*row, sep="  ", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("make")
    first.add_argument("dir")
    first.add_argument("--count", type=int, default=100_000)
    second = commands.add_parser("run")
    second.add_argument("binary")
    second.add_argument("dir")
    second.add_argument("--csv", required=True)
    second.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    make(pathlib.Path(arguments.dir), arguments.count) if arguments.command == "make" else run(arguments)


if __name__ == "__main__":
    main()
