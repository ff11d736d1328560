"""Writes tests/vectors/preprocessing.json: what Pillow, torchvision, timm and transformers make of pictures, for every
combination of resize, crop, interpolation and channels. tests/preprocess_as_others_do.rs holds ours against it.

The bytes are the same, so digests are kept. Needs Pillow before 13: from then on it starts with the vertical pass where that
is cheaper. Roundings then differ by 1; bicubic and Lanczos cut their overshoot off between the passes and differ by more.

Needs torch, torchvision, timm, transformers, pillow, numpy.
Run: python tests/scripts/preprocessing_vectors.py

With --live nothing is written: 50 pictures of odd sizes (upscaled from the image files under DIR, drawn, and the
photographs of scikit-image and scikit-learn) are written as PNG, preprocessed by both sides at larger sizes, and compared.
Fails where a pixel differs by more than 1. Needs scikit-image, scikit-learn, cargo.
Run: python tests/scripts/preprocessing_vectors.py --live DIR
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
import torchvision
import transformers
from PIL import Image, ImageDraw
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers import CLIPImageProcessor, ViTImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

ROOT = Path(__file__).resolve().parents[2]
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
ANTIALIASED = ["bilinear", "bicubic", "lanczos"]
MEAN = {1: [0.481], 3: [0.485, 0.456, 0.406]}


class Recipe:
    """One way of preprocessing: ours as settings, the library's as a function from an image to (H, W, C) bytes."""

    def __init__(self, library, function, **settings):
        self.library, self.function = library, function
        self.settings = {"size": "", "resize": "none", "crop": "none", "interpolation": "bilinear"} | settings


def array(image):
    a = np.asarray(image)
    return a[:, :, None] if a.ndim == 2 else a


def sides(size):
    return f"{size[0]}x{size[1]}"


def pillow(sizes):
    for h, w in sizes:
        for name, resample in FILTERS.items():
            yield Recipe(
                "pillow", lambda im, h=h, w=w, r=resample: array(im.resize((w, h), r)),
                size=sides((h, w)), resize="stretch", interpolation=name,
            )


def geometries(edges, boxes):
    """torchvision's: our words, and the transforms for an interpolation."""
    for edge, crop in edges:
        yield (
            {"resize": f"shortest-edge:{edge}", "crop": f"center:{sides(crop)}"},
            lambda e=edge, c=crop, **how: [v2.Resize(e, **how), v2.CenterCrop(c)],
        )
        yield {"resize": f"shortest-edge:{edge}"}, lambda e=edge, **how: [v2.Resize(e, **how)]
        yield {"resize": f"longest-edge:{edge}"}, lambda e=edge, **how: [v2.Resize(None, max_size=e, **how)]
    for box, crop in boxes:
        yield {"size": sides(box), "resize": "stretch"}, lambda b=box, **how: [v2.Resize(b, **how)]
        yield (
            {"resize": f"stretch:{sides(box)}", "crop": f"center:{sides(crop)}"},
            lambda b=box, c=crop, **how: [v2.Resize(b, **how), v2.CenterCrop(c)],
        )
    for _, crop in boxes:
        yield {"crop": f"center:{sides(crop)}"}, lambda c=crop, **how: [v2.CenterCrop(c)]


def on_tensor(transform):
    return lambda im: transform(F.pil_to_tensor(im)).permute(1, 2, 0).numpy()


def vision(edges, boxes):
    for words, make in geometries(edges, boxes):
        for name in FILTERS:
            mode = InterpolationMode(name)
            transform = v2.Compose(make(interpolation=mode))
            yield Recipe("torchvision, images", lambda im, t=transform: array(t(im)), interpolation=name, **words)
            if name in ANTIALIASED:
                transform = v2.Compose(make(interpolation=mode, antialias=True))
                yield Recipe(
                    "torchvision, tensors", on_tensor(transform), interpolation=f"torch-antialias-{name}", **words
                )
        for name in ["nearest", "bilinear", "bicubic"]:
            transform = v2.Compose(make(interpolation=InterpolationMode(name), antialias=False))
            yield Recipe(
                "torchvision, antialias=False", on_tensor(transform), interpolation=f"torch-{name}", **words
            )


def of_timm(sizes, shares):
    ours = {
        "center": ("shortest-edge", "center"),
        "squash": ("stretch", "center"),
        "border": ("longest-edge", "border"),
    }
    for size in sizes:
        for share in shares:
            for mode, (resize, crop) in ours.items():
                for name in FILTERS:
                    def function(im, size=size, share=share, mode=mode, name=name):
                        mean = MEAN[len(im.getbands())]
                        t = create_transform(
                            input_size=(len(mean), *size), interpolation=name, mean=mean, std=mean,
                            crop_pct=share, crop_mode=mode, normalize=False,
                        )
                        return t(im).permute(1, 2, 0).numpy()
                    yield Recipe(
                        f"timm, {mode}", function,
                        size=sides(size), resize=f"{resize}:{share}", crop=crop, interpolation=name,
                    )


def hugging_face(edges, boxes):
    plain = {"do_rescale": False, "do_normalize": False}
    kinds = [
        ("images", "", ViTImageProcessorPil, CLIPImageProcessorPil, list(FILTERS)),
        ("tensors", "torch-antialias-", ViTImageProcessor, CLIPImageProcessor, ANTIALIASED),
    ]
    for kind, ours, stretching, cropping, names in kinds:
        for name in names:
            made = []
            for box in boxes:
                processor = stretching(size={"height": box[0], "width": box[1]}, resample=FILTERS[name], **plain)
                made.append((processor, {"size": sides(box), "resize": "stretch"}))
            for edge, crop in edges:
                # its Pillow side puts the odd row of padding above instead of below; no model pads
                if kind == "images" and (crop[0] > edge or crop[1] > edge):
                    continue
                processor = cropping(
                    size={"shortest_edge": edge}, crop_size={"height": crop[0], "width": crop[1]},
                    resample=FILTERS[name], **plain,
                )
                made.append((processor, {"resize": f"shortest-edge:{edge}", "crop": f"center-floor:{sides(crop)}"}))
                processor = cropping(size={"shortest_edge": edge}, do_center_crop=False, resample=FILTERS[name], **plain)
                made.append((processor, {"resize": f"shortest-edge:{edge}"}))
            for processor, words in made:
                def function(im, processor=processor):
                    grey = len(im.getbands()) == 1
                    (out,) = processor(im.convert("RGB"), return_tensors="np")["pixel_values"]
                    out = np.asarray(out).transpose(1, 2, 0)
                    return out[:, :, :1] if grey else out
                yield Recipe(f"transformers, {kind}", function, interpolation=ours + name, **words)


def recipes(edges, boxes, sizes, shares):
    yield from pillow([box for box, _ in boxes])
    yield from vision(edges, boxes)
    yield from of_timm(sizes, shares)
    yield from hugging_face(edges, [box for box, _ in boxes])


def applied(recipe, image):
    """The library's bytes, (H, W, C), or None where it refuses, as it does a side of no pixels."""
    try:
        return np.ascontiguousarray(recipe.function(image).astype(np.uint8))
    except (ValueError, RuntimeError) as e:
        assert "must be > 0" in str(e) or "greater than 0" in str(e) or "at least" in str(e), e
        return None


def variants(recipe, image):
    """(settings, library's bytes): colours in both orders, one grey channel, and grey repeated."""
    out, grey = applied(recipe, image.convert("RGB")), applied(recipe, image.convert("L"))
    mean = {c: ",".join(map(str, MEAN[c])) for c in MEAN}
    yield {"planes": 3, "channels": "rgb", "mean": mean[3]}, out
    if out is not None:
        # the mean is given in the network's order of channels
        yield {"planes": 3, "channels": "bgr", "mean": ",".join(map(str, MEAN[3][::-1]))}, out[:, :, ::-1]
        yield {"planes": 1, "channels": "rgb", "mean": mean[1]}, grey
        yield {"planes": 3, "channels": "gray", "mean": mean[1]}, grey.repeat(3, axis=2)


def formula(h, w):
    """A picture of fields of noise and of ramps that the test makes anew."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    noise = ((x * 73856093) ^ (y * 19349663) ^ (c * 83492791)) >> 5
    ramp = x * 37 + y * 61 + c * 17
    return Image.fromarray(np.where((x // 7 + y // 5) % 2 == 1, ramp, noise).astype(np.uint8))


def digest(data):
    """FNV-1a."""
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def write():
    assert int(PIL.__version__.split(".")[0]) < 13, "Pillow 13 rounds in another order"
    small = dict(edges=[(19, (12, 12)), (14, (11, 17))], boxes=[((13, 18), (9, 21))])
    pictures = [(23, 37), (41, 18), (1, 9), (16, 16)]
    cases = []
    for recipe in recipes(**small, sizes=[(14, 14), (12, 17)], shares=[0.875, 0.9]):
        results = defaultdict(list)
        for h, w in pictures:
            for words, out in variants(recipe, formula(h, w)):
                if out is not None:
                    kept = digest(out.transpose(2, 0, 1).tobytes())
                    results[json.dumps(words)].append([h, w, *out.shape[:2], kept])
        about = {"library": recipe.library} | recipe.settings
        for words, found in results.items():
            cases.append(about | json.loads(words) | {"results": found})
    versions = {m.__name__: m.__version__ for m in (PIL, torch, torchvision, timm, transformers)}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path = ROOT / "tests/vectors/preprocessing.json"
    path.write_text(f'{{"versions":{json.dumps(versions)},"cases":[\n{lines}\n]}}\n')
    print(f"{path.relative_to(ROOT)}: {len(cases)} cases, {path.stat().st_size >> 10} KiB")


def drawn(rng, h, w):
    """Lines, discs and words on a ramp."""
    y, x = np.mgrid[:h, :w]
    image = Image.fromarray(np.stack([x * 255 // max(w - 1, 1), y * 255 // max(h - 1, 1), (x + y) % 256], 2).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        box = sorted(rng.integers(0, w, 2)) + sorted(rng.integers(0, h, 2))
        colour = tuple(int(v) for v in rng.choice([0, 255, 128], 3))
        draw.ellipse([box[0], box[2], box[1], box[3]], fill=colour)
        draw.line([box[0], box[3], box[1], box[2]], fill=colour[::-1], width=int(rng.integers(1, 4)))
    draw.text((w // 4, h // 3), "Polarizer 0123456789", fill=(255, 255, 255))
    return image


def photographs():
    import skimage.data
    from sklearn.datasets import load_sample_images
    yield from load_sample_images().images
    for name in ["astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "page", "text", "moon", "brick", "grass"]:
        try:
            yield getattr(skimage.data, name)()
        except Exception as e:  # some are downloaded on demand
            print(f"without skimage.data.{name}: {type(e).__name__}", file=sys.stderr)


def fifty(folder, rng):
    pictures = [Image.fromarray(np.asarray(p)).convert("RGB") for p in photographs()]
    # cut to odd sizes, a few left as they are
    for i, p in enumerate(pictures):
        if i % 3:
            w, h = (min(side, int(rng.integers(150, 420))) | 1 for side in p.size)
            pictures[i] = p.crop((3, 5, 3 + min(w, p.width - 3), 5 + min(h, p.height - 5)))
    extreme = [(1, 1), (1, 41), (39, 1), (3, 101), (2, 2)]
    odd = [tuple(int(v) | 1 for v in rng.integers(40, 400, 2)) for _ in range(9)]
    pictures += [drawn(rng, h, w) for h, w in extreme + odd]
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    for path in rng.choice(np.array(files, object), 50 - len(pictures), replace=False):
        with Image.open(path) as p:
            w, h = (int(v) | 1 for v in rng.integers(60, 420, 2))
            pictures.append(p.convert("RGB").resize((w, h), Image.Resampling.BICUBIC))
    return pictures


FIELDS = ["planes", "channels", "size", "resize", "crop", "interpolation", "mean"]


def live(folder):
    rng = np.random.default_rng(33)
    ways = list(recipes(
        edges=[(96, (83, 83)), (75, (90, 64))], boxes=[((67, 85), (58, 91))],
        sizes=[(88, 88), (70, 93)], shares=[0.875, 0.95, 1.0],
    ))
    ways += list(vision([(256, (224, 224))], []))[:8]
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "pictures").mkdir()
        pictures = fifty(folder, rng)
        for i, picture in enumerate(pictures):
            picture.save(work / "pictures" / f"{i:03}.png")
        expected = work / "expected"
        with open(work / "jobs.tsv", "w") as jobs, open(expected, "wb") as kept:
            shapes = []
            for i, picture in enumerate(pictures):
                for way in ways:
                    for words, out in variants(way, picture):
                        if out is None:
                            continue
                        words = way.settings | words
                        print(i, *(words[f] for f in FIELDS), sep="\t", file=jobs)
                        planes = np.ascontiguousarray(out.transpose(2, 0, 1))
                        kept.write(planes.tobytes())
                        shapes.append((way, words, planes.shape, i))
        command = ["cargo", "test", "--release", "--test", "preprocess_as_others_do", "--", "--ignored", "beside"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"POLARIZER_PREPROCESSING": str(work)}, check=True)
        compare(shapes, expected, work / "ours", [p.size[::-1] for p in pictures])


def compare(shapes, expected, ours, sizes):
    """Ours: for each job its shape as three numbers of 4 bytes, then its bytes."""
    theirs, found = np.memmap(expected, np.uint8, "r"), np.memmap(ours, np.uint8, "r")
    totals = defaultdict(lambda: [0, 0, 0, 0])
    at, from_ours, failures = 0, 0, []
    for way, words, shape, picture in shapes:
        head = tuple(int(v) for v in np.frombuffer(found[from_ours : from_ours + 12].tobytes(), "<u4"))
        from_ours += 12
        n = int(np.prod(shape))
        if head != shape:
            failures.append(f"{way.library} {words}: {sizes[picture]} becomes {shape}, ours {head}")
            worst, differing = 255, n
        else:
            difference = np.abs(theirs[at : at + n].astype(np.int16) - found[from_ours : from_ours + n])
            worst, differing = int(difference.max()), int((difference > 0).sum())
            if worst > 1:
                failures.append(f"{way.library} {words}: {sizes[picture]} differs by {worst} ({differing} of {n})")
        at, from_ours = at + n, from_ours + int(np.prod(head))
        for key in [(way.library, "all"), (way.library, words["interpolation"])]:
            t = totals[key]
            t[0], t[1], t[2], t[3] = max(t[0], worst), t[1] + differing, t[2] + n, t[3] + 1
    print(f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, "
          f"transformers {transformers.__version__}; {len(sizes)} pictures")
    print(f"{'library':32} {'filter':15} {'comparisons':>11} {'largest':>7} {'pixel values differing':>22}")
    for (library, name), (worst, differing, n, count) in sorted(totals.items()):
        print(f"{library:32} {name:15} {count:11} {worst:7} {100 * differing / n:21.5f}%")
    for failure in failures[:40]:
        print(failure)
    if failures:
        sys.exit(f"{len(failures)} of {len(shapes)} comparisons differ by more than 1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", metavar="DIR", help="compare on 50 pictures, some of them made from the images in DIR")
    arguments = parser.parse_args()
    live(arguments.live) if arguments.live else write()
