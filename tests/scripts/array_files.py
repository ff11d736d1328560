"""Writes tests/vectors/arrays: the same four images of 5x6 with their labels, in the files that numpy, safetensors,
torchvision's and Keras' users have. tests/read_other_formats.rs computes the pixels by the same formula.

Needs numpy and safetensors. Run: python tests/scripts/array_files.py
"""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).parent.parent / "vectors" / "arrays"


def images(channels=3):
    """(count, H, W, C) uint8."""
    i, y, x, c = np.meshgrid(np.arange(4), np.arange(5), np.arange(6), np.arange(channels), indexing="ij")
    return ((i * 37 + y * 11 + x * 5 + c * 71 + i * y * 3) % 256).astype(np.uint8)


RGB, GREY = images(), images(1)
NCHW = np.ascontiguousarray(RGB.transpose(0, 3, 1, 2))
LABELS = np.array([1, 0, 2, 1])


def npy(name, array, version=None):
    with open(OUT / name, "wb") as file:
        np.lib.format.write_array(file, array, version=version, allow_pickle=array.dtype == object)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    npy("nhwc-u8.npy", RGB)
    npy("nchw-u8-v2.npy", NCHW, (2, 0))
    npy("grey-u8-v3.npy", GREY[..., 0], (3, 0))
    npy("nchw-f32-big-endian.npy", (NCHW / np.float32(255)).astype(">f4"))
    npy("nhwc-i64-fortran.npy", np.asfortranarray(RGB.astype(np.int64)))
    npy("nhwc-f64-0-255.npy", RGB.astype(np.float64))
    npy("nhwc-f32-0-255-odd.npy", RGB.astype(np.float32) + np.float32(0.25) * (RGB < 255))
    npy("x_test.npy", RGB)
    npy("y_test.npy", LABELS)
    # what is refused
    npy("objects.npy", np.array([RGB[0], None], dtype=object))
    npy("bool.npy", RGB > 100)
    npy("normalised.npy", ((RGB / 255 - 0.5) / 0.25).astype(np.float32))
    npy("wide-range.npy", RGB.astype(np.uint16) * 257)
    npy("nan.npy", np.where(RGB == RGB[1, 2, 3, 0], np.nan, RGB / 255).astype(np.float32))

    # as Keras' data sets are saved
    np.savez(OUT / "keras.npz", x_train=RGB, y_train=LABELS[:, None].astype(np.uint8), x_test=RGB[:2],
             y_test=LABELS[:2, None].astype(np.uint8))
    np.savez(OUT / "x-y.npz", x=NCHW, y=LABELS)
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    np.savez_compressed(OUT / "compressed.npz", images=(RGB / 255).astype(np.float16), labels=one_hot)
    np.savez_compressed(OUT / "compressed-u8.npz", RGB, np.asfortranarray(one_hot))
    np.savez(OUT / "unlabelled.npz", data=RGB, mean=np.zeros(3))
    np.savez(OUT / "soft-labels.npz", x=RGB, y=np.full((4, 3), 1 / 3))
    np.savez(OUT / "two-labels.npz", x=RGB, fine_labels=LABELS, coarse_labels=LABELS // 2)

    save_file({"pixel_values": (NCHW / 255).astype(np.float32), "labels": LABELS}, OUT / "hub.safetensors")
    save_file({"image": RGB, "label": LABELS.astype(np.int32)}, OUT / "u8.safetensors")

    # as torchvision downloads MNIST
    for stem, array, idx in [("images", GREY[..., 0], "idx3"), ("labels", LABELS.astype(np.uint8), "idx1")]:
        header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
        raw = header + array.tobytes()
        (OUT / f"t10k-{stem}-{idx}-ubyte").write_bytes(raw)
        (OUT / f"train-{stem}-{idx}-ubyte.gz").write_bytes(gzip.compress(raw, mtime=0))

    # a member whose bytes are damaged behind its header
    good = io.BytesIO()
    np.savez_compressed(good, x=RGB, y=LABELS)
    info = zipfile.ZipFile(good).getinfo("x.npy")
    bytes_ = bytearray(good.getvalue())
    bytes_[info.header_offset + 30 + len("x.npy") + 20 + info.compress_size - 40] ^= 0xFF
    (OUT / "damaged.npz").write_bytes(bytes_)


main()
