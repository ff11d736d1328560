"""Small images of every format that is read, and what Pillow makes of them: tests/vectors/images.

    python tests/scripts/odd_images.py

Needs Pillow 11 or later, numpy and safetensors; libjpeg-turbo's cjpeg where there is one, for what Pillow does not
write (files named scans-* and coarser-*; without it they stay as they are). `expected.safetensors` holds of each file
Pillow's convert("RGB") as (H, W, 3), but for 16-bit grey: there Pillow clips to 255, and expected is value / 257,
rounded. Files under `refused` are whole, but not read.
"""

import io
import shutil
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent.parent / "vectors" / "images"
SAMPLINGS = ("2x2", "2x1,1x2,1x1", "1x2")
expected = {}


def drawing(width, height):
    """Smooth colours with an edge and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(7).integers(0, 24, (height, width, 3))
    values = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1)
    values[(x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2] = (230, 40, 90)
    return Image.fromarray(np.clip(values + noise - 12, 0, 255).astype(np.uint8))


def note(name, content, values=None):
    (HERE / name).write_bytes(content)
    if values is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    expected[name] = np.ascontiguousarray(values)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def frame(jpeg):
    """Position of the start-of-frame segment's content."""
    at = 2
    while jpeg[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at + 4


def relabelled(jpeg, size, sampling):
    """The same data read as another sampling with as many blocks in a unit: scrambled, but valid."""
    at, out = frame(jpeg), bytearray(jpeg)
    out[at + 1 : at + 5] = struct.pack(">HH", size[1], size[0])
    out[at + 7] = sampling
    return bytes(out)


def without_adobe(jpeg):
    at = jpeg.index(b"Adobe") - 4
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def jpegs(image):
    for sub, name in ((0, "444"), (1, "422"), (2, "420")):
        for progressive in (False, True):
            kind = "progressive" if progressive else "baseline"
            note(f"{kind}-{name}.jpg", encoded(image, "JPEG", subsampling=sub, progressive=progressive, quality=85))
    for size in ((1, 1), (2, 2), (3, 1), (5, 3), (1, 9), (17, 16)):
        small = encoded(image.resize(size), "JPEG", subsampling=2, progressive=size[0] % 2 == 0)
        note(f"small-{size[0]}x{size[1]}.jpg", small)
    wide = drawing(64, 16)
    note("relabelled-440.jpg", relabelled(encoded(wide, "JPEG", subsampling=1), (32, 32), 0x12))
    note("relabelled-411.jpg", relabelled(encoded(wide, "JPEG", subsampling=2), (128, 8), 0x41))
    note("relabelled-1x4.jpg", relabelled(encoded(wide, "JPEG", subsampling=2), (32, 32), 0x14))
    note("restarts.jpg", encoded(image, "JPEG", restart_marker_blocks=2))
    note("restarts-progressive.jpg", encoded(image, "JPEG", restart_marker_rows=1, progressive=True))
    note("coarse.jpg", encoded(image, "JPEG", quality=1))
    note("fine.jpg", encoded(image, "JPEG", quality=100))
    note("grey.jpg", encoded(image.convert("L"), "JPEG"))
    note("grey-progressive.jpg", encoded(image.convert("L"), "JPEG", progressive=True))
    note("rgb.jpg", encoded(image, "JPEG", keep_rgb=True))
    cmyk = encoded(image.convert("CMYK"), "JPEG")
    note("cmyk.jpg", cmyk)
    note("cmyk-progressive.jpg", encoded(image.convert("CMYK"), "JPEG", progressive=True))
    note("cmyk-unmarked.jpg", without_adobe(cmyk))
    at = cmyk.index(b"Adobe") + 11
    note("ycck.jpg", cmyk[:at] + b"\2" + cmyk[at + 1 :])
    turned = Image.Exif()
    turned[274] = 6
    note("orientation.jpg", encoded(image, "JPEG", exif=turned))
    note("trailing.jpg", encoded(image, "JPEG") + b"\0\0more")


def refused(image):
    """What Pillow reads and we refuse."""
    here = HERE / "refused"
    here.mkdir(exist_ok=True)
    jpegs = {f"scans-{s.replace(',', '-')}-{o.count(';')}": (s, o) for o in ("0;1;2;", "0;1 2;") for s in SAMPLINGS}
    jpegs["coarser-first"] = ("1x1,2x2,1x1", "0 1 2;")
    cjpeg = shutil.which("cjpeg")
    for name, (sampling, order) in jpegs.items() if cjpeg else ():
        script = here / "scans.txt"
        script.write_text(order.replace(";", ";\n"))
        command = [cjpeg, "-restart", "2", "-scans", script, "-sample", sampling]
        done = subprocess.run(command, input=encoded(image, "PPM"), capture_output=True, check=True)
        (here / f"{name}.jpg").write_bytes(done.stdout)
        script.unlink()
    (here / "reversed-bits.tif").write_bytes(encoded(image.convert("1"), "TIFF", tiffinfo={266: 2}))
    (here / "fax.tif").write_bytes(encoded(image.convert("1"), "TIFF", compression="group4"))


def png(width, height, depth, colour, rows):
    """A PNG of rows of bytes as they are stored."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rounded(wide):
    return ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)


def pngs(image):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        note(f"{mode}.png", encoded(image.convert(mode), "PNG"))
    for bits in (1, 2, 4):
        note(f"palette-{bits}.png", encoded(image.quantize(2**bits), "PNG", bits=bits))
    note("palette-transparent.png", encoded(image.quantize(16), "PNG", transparency=3))
    note("rgb-transparent.png", encoded(image, "PNG", transparency=(230, 40, 90)))
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L").point(lambda v: v & 128))
    note("alpha.png", encoded(alpha, "PNG"))
    wide = np.random.default_rng(3).integers(0, 65536, (9, 11, 3)).astype(">u2")
    note("rgb-16.png", png(11, 9, 16, 2, [row.tobytes() for row in wide]), rounded(wide))
    grey = np.repeat(rounded(wide[..., :1]), 3, 2)
    note("grey-16.png", png(11, 9, 16, 0, [row[:, 0].tobytes() for row in wide]), grey)


def bmp(size, bits, pixels, compression=0, palette=b"", masks=b""):
    start = 54 + len(palette) + len(masks)
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + masks + palette + pixels


def bmps(image):
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        note(f"{mode}.bmp", encoded(image.convert(mode), "BMP"))
    words = np.random.default_rng(5).integers(0, 65536, (6, 10)).astype("<u2").tobytes()
    note("555.bmp", bmp((10, 6), 16, words))
    note("565.bmp", bmp((10, 6), 16, words, 3, masks=struct.pack("<III", 0xF800, 0x07E0, 0x1F)))
    note("top-down.bmp", bmp((10, -6), 16, words))
    colours = bytes(v for i in range(16) for v in (i * 16, 255 - i * 9, i * 5, 0))
    nibbles = bytes(range(0x10, 0x10 + 5)) + bytes(3)
    note("4-bit.bmp", bmp((9, 3), 4, nibbles * 3, palette=colours))
    runs = bytes([5, 3, 0, 3, 1, 2, 3, 0, 0, 0, 8, 7, 0, 0, 2, 1, 0, 4, 9, 8, 7, 6, 2, 5, 0, 1])
    note("runs-8.bmp", bmp((8, 3), 8, runs, 1, palette=colours))
    runs = bytes([5, 0x3A, 0, 3, 0x12, 0x30, 0, 0, 8, 0x71, 0, 0, 8, 0xF0, 0, 1])
    note("runs-4.bmp", bmp((8, 3), 4, runs, 2, palette=colours))


def tiffs(image):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        note(f"{mode}.tif", encoded(image.convert(mode), "TIFF"))
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        note(f"{name}.tif", encoded(image, "TIFF", compression=name))
        note(f"{name}-1.tif", encoded(image.convert("1"), "TIFF", compression=name))
    for name in ("tiff_lzw", "tiff_adobe_deflate"):
        note(f"{name}-differences.tif", encoded(image, "TIFF", compression=name, tiffinfo={317: 2}))
    noise = np.random.default_rng(9).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    note("noise-lzw.tif", encoded(Image.fromarray(noise), "TIFF", compression="tiff_lzw"))
    for orientation in range(2, 9):
        note(f"orientation-{orientation}.tif", encoded(drawing(7, 5), "TIFF", tiffinfo={274: orientation}))
    note("white-is-zero.tif", encoded(image.convert("L"), "TIFF", tiffinfo={262: 0}))
    note("pages.tif", encoded(image, "TIFF", save_all=True, append_images=[image.convert("L")]))
    wide = np.random.default_rng(11).integers(0, 65536, (9, 11)).astype(np.uint16)
    grey = np.repeat(rounded(wide)[..., None], 3, 2)
    note("grey-16.tif", encoded(Image.fromarray(wide), "TIFF"), grey)
    note("grey-16-lzw.tif", encoded(Image.fromarray(wide), "TIFF", compression="tiff_lzw"), grey)
    big = Image.frombytes("I;16B", (11, 9), wide.astype(">u2").tobytes())
    note("grey-16-big-endian.tif", encoded(big, "TIFF"), grey)


def others(image):
    for mode, ending in (("1", "pbm"), ("L", "pgm"), ("RGB", "ppm")):
        note(f"raw.{ending}", encoded(image.convert(mode), "PPM"))
    note("plain.pbm", b"P1 # bits\n5 2\n01001\n1 1 0 0 1\n")
    note("plain.pgm", b"P2\n# grey\n3 2\n100\n0 1 2\n50 99 100\n")
    note("plain.ppm", b"P3\n2 2\n7\n0 1 2 3 4 5\n6 7 0 1 2 3\n")
    note("raw-100.pgm", b"P5 101 1 100\n" + bytes(range(101)))
    wide = np.random.default_rng(13).integers(0, 65536, 60).astype(">u2")
    note("raw-16.ppm", b"P6 5 4 65535\n" + wide.tobytes())
    note("lossy.webp", encoded(image, "WEBP", quality=60))
    note("lossless.webp", encoded(image, "WEBP", lossless=True))
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L"))
    note("lossy-alpha.webp", encoded(alpha, "WEBP", quality=60))
    note("lossless-alpha.webp", encoded(alpha, "WEBP", lossless=True))


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    image = drawing(29, 23)
    for make in (jpegs, pngs, bmps, tiffs, others, refused):
        make(image)
    save_file(expected, HERE / "expected.safetensors")
    print(f"{len(expected)} files, {sum(f.stat().st_size for f in HERE.iterdir()) >> 10} KiB")


if __name__ == "__main__":
    main()
