#!/usr/bin/env python3
"""Writes tests/vectors/config.json: files that state preprocessing, and what their libraries make of pictures.

The files are what transformers' image processors (every class that reads for classification, in today's and in older
forms), timm (configurations of published models) and torchvision (transforms of weights, as text) write; the values are
what their own code computes. tests/read_preprocessing.rs reads each file and compares.

    python tests/scripts/config_vectors.py               write the vectors, a sample of the values of drawn pictures
    python tests/scripts/config_vectors.py --live DIR    write to DIR all values of photographs of odd sizes, and run
                                                         the test on them (cargo test --release)

Needs transformers, timm, torchvision, numpy, pillow; --live also scikit-image, and Pillow before 13, whose other order of
passes makes a difference of 2 of 255 here and there. No weights are downloaded.
"""

import argparse
import json
import os
import pathlib
import subprocess

import numpy as np
import timm
import torchvision
import transformers
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests/vectors/config.json"
KNOWN = json.loads((ROOT / "src/data/preprocessing/config/processors.json").read_text())
SAMPLED = 20  # values of a picture

TIMM = """resnet18.a1_in1k resnet50.tv_in1k resnetv2_50x1_bit.goog_in21k_ft_in1k vit_tiny_patch16_224.augreg_in21k_ft_in1k
vit_base_patch16_clip_224.openai_ft_in1k deit3_small_patch16_224.fb_in1k swin_tiny_patch4_window7_224.ms_in1k
convnext_tiny.fb_in22k_ft_in1k convnextv2_atto.fcmae_ft_in1k efficientnet_b0.ra_in1k tf_efficientnet_b0.aa_in1k
mobilenetv3_small_100.lamb_in1k mobilenetv4_conv_small.e2400_r224_in1k regnety_004.tv2_in1k inception_v3.tv_in1k
beit_base_patch16_224.in22k_ft_in22k_in1k mixer_b16_224.goog_in21k_ft_in1k levit_128s.fb_dist_in1k
poolformer_s12.sail_in1k mobilevit_s.cvnets_in1k eva02_tiny_patch14_336.mim_in22k_ft_in1k
vit_so400m_patch14_siglip_gap_224.webli maxvit_tiny_tf_224.in1k dm_nfnet_f0.dm_in1k""".split()

WEIGHTS = """ResNet50_Weights.IMAGENET1K_V2 EfficientNet_B1_Weights.IMAGENET1K_V1 ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1
Swin_V2_T_Weights.IMAGENET1K_V1 Inception_V3_Weights.IMAGENET1K_V1 MobileNet_V3_Small_Weights.IMAGENET1K_V1""".split()


class Case:
    """A file, by name and text, and the function that its library makes of it: a picture to (C, H, W) floats."""

    def __init__(self, about, name, text, function, beside=None, most=1):
        self.about, self.name, self.function, self.beside, self.most = about, name, function, beside, most
        self.text = text if isinstance(text, str) else json.dumps(text)

    def row(self, values):
        row = {"about": self.about, "name": self.name, "text": self.text, "beside": self.beside, "most": self.most}
        return row | {"values": values}


def either(about, name, changes=(), pil=False, old=None, beside=None):
    """An image processor with `changes`, of either of the two that a class has; written as itself, or as `old`."""
    changes = dict(changes)
    cls = getattr(transformers, name + ("Pil" if pil else ""))
    made = cls(**changes)
    said = made.to_dict()
    said |= {k: v for k, v in changes.items() if v is None}

    def run(image):
        out = made(image, return_tensors="np", input_data_format="channels_last")
        return np.asarray(out["pixel_values"])[0]

    text = old if old is not None else said
    # torchvision's filters of tensors are not Pillow's: both roundings together can make a difference of 2 of 255
    about = f"{name}, {about}, {'Pillow' if pil else 'torchvision'}"
    return Case(about, "preprocessor_config.json", text, run, beside, 1 if pil else 2)


def processors(pillow):
    def processor(*args, pil=False, **more):
        return either(*args, pil=pil or pillow, **more)

    for name in KNOWN["processors"]:
        if not pillow or hasattr(transformers, name + "Pil"):
            yield processor("as it is written by default", name)
    vit = "ViTImageProcessor"
    half = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    yield processor("older: size as a number", vit, old=half | {"size": 224, "feature_extractor_type": "ViTFeatureExtractor"})
    yield processor("older: an extractor as processor", vit, old=half | {"size": 224, "image_processor_type": "ViTFeatureExtractor"})
    yield processor("no type, known from the model's", vit, old=half | {"size": 224}, beside={"model_type": "vit"})
    yield processor("size as a list", vit, {"size": {"height": 48, "width": 64}}, old=half | {"size": [48, 64], "image_processor_type": "ViTImageProcessorFast"})
    yield processor("neither rescaled nor normalised", vit, {"do_rescale": False, "do_normalize": False})
    yield processor("not rescaled", vit, {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3})
    yield processor("not normalised", vit, {"do_normalize": False})
    yield processor("another factor", vit, {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3})
    yield processor("another factor alone", vit, {"rescale_factor": 1 / 128, "do_normalize": False})
    yield processor("each channel its own", vit, {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]})
    yield processor("the shortest edge", vit, {"size": {"shortest_edge": 61}})
    yield processor("not resized, cut out", vit, {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 40, "width": 33}})
    for code, filters in enumerate(["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]):
        yield processor(f"{filters}", vit, {"resample": code, "size": {"height": 50, "width": 70}}, pil=True)
    clip = "CLIPImageProcessor"
    yield processor("cut out with odd margins", clip, {"size": {"shortest_edge": 67}, "crop_size": {"height": 52, "width": 50}})
    if not pillow:  # there, half of an odd margin of padding is rounded up
        yield processor("cut out, and padded", clip, {"size": {"shortest_edge": 50}, "crop_size": {"height": 61, "width": 80}})
    yield processor("older: numbers", clip, {"size": {"shortest_edge": 64}, "crop_size": {"height": 60, "width": 60}},
                    old={"crop_size": 60, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 64,
                         "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3,
                         "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})
    convnext = "ConvNextImageProcessor"
    yield processor("below 384", convnext, {"size": {"shortest_edge": 224}})
    yield processor("below 384, another share", convnext, {"size": {"shortest_edge": 96}, "crop_pct": 0.95})
    yield processor("older: a number", convnext, {"size": {"shortest_edge": 224}, "resample": 3},
                    old={"crop_pct": 0.875, "do_normalize": True, "do_resize": True, "size": 224, "resample": 3,
                         "feature_extractor_type": "ConvNextFeatureExtractor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    yield processor("both sides", "LevitImageProcessor", {"size": {"height": 70, "width": 60}, "crop_size": {"height": 50, "width": 50}})
    pool = "PoolFormerImageProcessor"
    yield processor("another share", pool, {"crop_pct": 0.95, "size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}})
    yield processor("a square", pool, {"size": {"height": 90, "width": 90}, "crop_size": {"height": 90, "width": 90}})
    yield processor("both sides", pool, {"size": {"height": 90, "width": 70}, "crop_size": {"height": 90, "width": 70}})
    yield processor("no share", pool, {"crop_pct": None, "size": {"shortest_edge": 96}, "crop_size": {"height": 90, "width": 90}})
    net = "EfficientNetImageProcessor"
    small = {"size": {"height": 64, "width": 64}}
    yield processor("with an offset", net, small | {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False})
    yield processor("with an offset and a second std", net, small | {"rescale_offset": True, "rescale_factor": 1 / 127.5, "image_std": [0.4, 0.5, 0.6]})
    yield processor("a second std alone", net, small | {"do_normalize": False, "image_std": [0.4, 0.5, 0.6]}, pil=True)
    yield processor("cut out", net, small | {"do_center_crop": True, "crop_size": {"height": 49, "width": 51}})
    yield processor("red first", "MobileViTImageProcessor", {"do_flip_channel_order": False, "crop_size": {"height": 101, "width": 224}})
    yield processor("a crop that it leaves out", "SegformerImageProcessor", small | {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}})
    yield processor("cut out", "BeitImageProcessor", small | {"do_center_crop": True, "crop_size": {"height": 49, "width": 51}})


def of_timm(about, cfg, **around):
    data = timm.data.resolve_data_config({}, pretrained_cfg=cfg)
    transform = timm.data.create_transform(**data, is_training=False)
    return Case(f"timm, {about}", "config.json", {"pretrained_cfg": cfg, **around}, lambda im: transform(im).numpy())


def timms():
    for name in TIMM:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None, name
        cfg = {k: v for k, v in cfg.to_dict().items() if k not in ("url", "file", "state_dict", "source", "notes", "origin_url")}
        yield of_timm(name, cfg, architecture=name.split(".")[0], num_classes=cfg["num_classes"])
    yield of_timm("silent", {"tag": "none"})
    base = {"input_size": [3, 60, 60], "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4]}
    for mode in ("center", "squash", "border"):
        for share in (0.8, 1.0):
            yield of_timm(f"{mode} {share}", base | {"crop_mode": mode, "crop_pct": share, "interpolation": "bicubic"})
        yield of_timm(f"{mode}, not square", base | {"crop_mode": mode, "crop_pct": 0.9, "input_size": [3, 40, 64], "interpolation": "bilinear"})
    yield of_timm("a test size", base | {"test_input_size": [3, 80, 80], "test_crop_pct": 1.0, "crop_pct": 0.9}, model_type="timm_wrapper")


def visions():
    for name in WEIGHTS:
        transform = torchvision.models.get_weight(name).transforms()
        yield Case(f"torchvision, {name}", "transforms.txt", repr(transform), lambda im, t=transform: t(im).numpy())


def drawn(h, w, kind):
    """The pictures that the test draws too."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    plain = np.broadcast_to([10, 128, 250], (h, w, 3))
    return {"plain": plain, "stripes": (x * 37 + y * 61 + c * 17) % 256, "ramp": (x * 2 + y * y // 16 + c * 40) % 256}[kind].astype(np.uint8)


def photographs():
    import skimage.data as data

    named = [data.astronaut()[:301, :401], data.chelsea(), data.coffee()[:399, 3:], data.rocket()[5:, 2:]]
    for image in named:
        yield np.ascontiguousarray(image)
        yield np.asarray(Image.fromarray(image).resize((83, 117), Image.BICUBIC))


def write(folder):
    """All values of photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [np.ascontiguousarray(p) for p in photographs()] + [drawn(77, 51, "plain")]
    table = {"pictures": [], "cases": []}
    for at, picture in enumerate(pictures):
        (folder / f"picture{at}.u8").write_bytes(picture.tobytes())
        table["pictures"].append({"size": list(picture.shape[:2]), "file": f"picture{at}.u8"})
    for at, case in enumerate([*all_cases(), *processors(pillow=True)]):
        values = []
        for p, picture in enumerate(pictures):
            out = np.ascontiguousarray(case.function(Image.fromarray(picture)), dtype="<f4")
            (folder / f"case{at}-{p}.f32").write_bytes(out.tobytes())
            values.append({"shape": list(out.shape), "file": f"case{at}-{p}.f32"})
        table["cases"].append(case.row(values))
    (folder / "config.json").write_text(json.dumps(table))


def sampled():
    pictures = [(97, 131, "stripes"), (131, 90, "ramp"), (33, 50, "plain")]
    rows = []
    for case in all_cases():
        values = []
        for picture in pictures:
            out = np.asarray(case.function(Image.fromarray(drawn(*picture))), dtype=np.float32)
            flat = out.reshape(-1)
            at = [(2 * i + 1) * flat.size // (2 * SAMPLED) for i in range(SAMPLED)]
            values.append({"shape": list(out.shape), "values": [float(f"{v:.6g}") for v in flat[at]]})
        rows.append(json.dumps(case.row(values)))
    versions = {m.__name__: m.__version__.split("+")[0] for m in (transformers, timm, torchvision)}
    head = {"written by": "tests/scripts/config_vectors.py", **versions}
    head["pictures"] = [{"size": [h, w], "drawn": kind} for h, w, kind in pictures]
    return json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(rows) + "\n]}\n"


def all_cases():
    yield from processors(pillow=False)
    yield from timms()
    yield from visions()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--live", type=pathlib.Path, metavar="DIR")
    args = args.parse_args()
    if args.live is None:
        VECTORS.write_text(sampled())
        return
    write(args.live)
    test = ["cargo", "test", "--release", "--test", "read_preprocessing", "live", "--", "--nocapture", "--ignored"]
    environment = os.environ | {"POLARIZER_CONFIG_CASES": str(args.live.resolve())}
    subprocess.run(test, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    main()
