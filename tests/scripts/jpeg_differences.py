"""How far our JPEG decoding is from Pillow's on photographs: the largest and the mean difference of all values.

    cargo bench --bench decode --no-run      # prints the binary's path
    python tests/scripts/jpeg_differences.py BINARY

Saves the photographs that scikit-image and scikit-learn ship in several qualities, samplings and sizes, baseline and
progressive, and prints one line of the guide's table for each sampling. Needs Pillow, numpy, scikit-image,
scikit-learn.
"""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "grey": None}


def photographs():
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        yield Image.fromarray(getattr(skimage.data, name)())
    for name in ("china.jpg", "flower.jpg"):
        yield Image.fromarray(sklearn.datasets.load_sample_image(name))


def ours(binary, path, out):
    subprocess.run([binary, "--values", path, out], check=True)
    content = out.read_bytes()
    shape = struct.unpack("<III", content[:12])
    values = np.frombuffer(content[12:], np.uint8).reshape(shape)
    return np.repeat(values, 3, 2) if shape[2] == 1 else values


def main():
    binary = sys.argv[1]
    print("| sampling | files | values | largest difference | mean |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "x.jpg", Path(folder) / "x.raw"
        for name, sampling in SAMPLINGS.items():
            files, values, largest, total = 0, 0, 0, 0
            for photograph in photographs():
                photograph = photograph.convert("L") if sampling is None else photograph
                w, h = photograph.size
                for size in ((w, h), (w // 2 + 1, h // 3)):
                    for quality in (30, 75, 95):
                        for progressive in (False, True):
                            options = {} if sampling is None else {"subsampling": sampling}
                            photograph.resize(size).save(path, quality=quality, progressive=progressive, **options)
                            wanted = np.asarray(Image.open(path).convert("RGB")).astype(int)
                            difference = np.abs(ours(binary, path, out) - wanted)
                            files, values = files + 1, values + difference.size
                            largest, total = max(largest, difference.max()), total + difference.sum()
            print(f"| {name} | {files} | {values} | {largest} | {total / values:g} |", flush=True)


if __name__ == "__main__":
    main()
