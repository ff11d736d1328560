"""Decoding and resizing JPEGs beside torchvision's ImageFolder and DataLoader, in turn.

    cargo bench --bench decode --no-run      # prints the binary's path
    python benches/decode.py BINARY [--images 1000] [--workers 2] [--rounds 3]

Makes JPEGs of 224 to 500 pixels a side (quality 90, 4:2:0) from the photographs that scikit-image and scikit-learn ship.
Both resize the shorter side to 256, cut out 224x224 and normalise, on as many threads as workers. Needs torch,
torchvision, scikit-image, scikit-learn.
"""

import argparse
import os
import pathlib
import random
import re
import statistics
import subprocess
import tempfile
import time

import skimage.data
import sklearn.datasets
import torch
from PIL import Image
from torchvision import datasets, transforms


def make(folder, count):
    choice = random.Random(0)
    photographs = [Image.fromarray(getattr(skimage.data, n)()) for n in ("astronaut", "coffee", "chelsea", "rocket")]
    photographs += [Image.fromarray(sklearn.datasets.load_sample_image(n)) for n in ("china.jpg", "flower.jpg")]
    for i in range(count):
        photograph = choice.choice(photographs)
        w, h = (choice.randint(224, 500) for _ in range(2))
        path = folder / str(i % 10) / f"{i:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        photograph.resize((w, h)).save(path, quality=90)


def theirs(folder, workers, seconds=5):
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    data = datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(data, batch_size=64, num_workers=workers, persistent_workers=True)
    next(iter(loader))  # the workers have started
    start, images = time.perf_counter(), 0
    while True:
        for batch, _ in loader:
            images += len(batch)
            if time.perf_counter() - start > seconds:
                return images / (time.perf_counter() - start)


def ours(binary, folder, workers):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(workers)}
    out = subprocess.run([binary, str(folder)], capture_output=True, text=True, check=True, env=environment).stdout
    return float(re.match(r"[\d.]+", out)[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder), a.images)
        ratios = []
        for _ in range(a.rounds):
            pair = ours(a.binary, folder, a.workers), theirs(folder, a.workers)
            ratios.append(pair[0] / pair[1])
            print(f"ours {pair[0]:.0f}, torchvision {pair[1]:.0f} images/s: {ratios[-1]:.2f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
