#!/usr/bin/env python3
"""Writes the two tables that reading of preprocessing files stands on, beside src/data/preprocessing/config:

    processors.json   Hugging Face's image processors: the way each works and what it does where a file is silent
    torchvision.csv   the transforms of torchvision's classification weights

    python tests/scripts/config_tables.py [--check]

Needs transformers, torchvision and timm; no weights are downloaded.
"""

import argparse
import io
import json
import pathlib
import sys

import torchvision
import transformers
from torchvision.models import get_model_weights, list_models
from torchvision.transforms._presets import ImageClassification
from transformers.image_processing_backends import TorchvisionBackend
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "src/data/preprocessing/config"

# processors that have a pipeline of their own, read by hand; those that leave the library's alone are found below
WAYS = {
    "BeitImageProcessor": "plain",
    "MobileNetV2ImageProcessor": "plain",
    "SegformerImageProcessor": "uncropped",
    "ConvNextImageProcessor": "convnext",
    "LevitImageProcessor": "levit",
    "PoolFormerImageProcessor": "poolformer",
    "EfficientNetImageProcessor": "efficientnet",
    "MobileViTImageProcessor": "mobilevit",
}
PIPELINE = {
    "_fuse_mean_std_and_rescale_factor", "_preprocess", "_preprocess_image_like_inputs", "_standardize_kwargs",
    "center_crop", "convert_to_rgb", "normalize", "pad", "preprocess", "process_image", "rescale",
    "rescale_and_normalize", "resize", "_prepare_images_structure",
}
# plain, but no image encoder's
OTHERS = {"ChameleonImageProcessor", "PI0ImageProcessor", "PPChart2TableImageProcessor", "Tipsv2DptImageProcessor"}
FIELDS = (
    "do_resize size default_to_square resample do_center_crop crop_size crop_pct do_rescale rescale_factor "
    "rescale_offset do_normalize include_top image_mean image_std do_flip_channel_order do_pad"
).split()


def is_plain(cls):
    """Whether every step is the library's own."""
    own = cls.__mro__[: cls.__mro__.index(TorchvisionBackend)]
    return not any(PIPELINE & set(vars(c)) for c in own)


def processors():
    found, types = {}, {}
    for model_type, names in IMAGE_PROCESSOR_MAPPING_NAMES.items():
        name = names.get("torchvision")
        cls = getattr(transformers, name, None) if name else None
        if not (isinstance(cls, type) and issubclass(cls, TorchvisionBackend)):
            continue
        way = WAYS.get(name) or ("plain" if is_plain(cls) else None)
        if way is None or name in OTHERS:
            continue
        defaults = {f: getattr(cls, f, None) for f in FIELDS}
        defaults = {f: int(v) if f == "resample" else v for f, v in defaults.items() if v is not None}
        found[name] = {"way": way, **defaults}
        if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            types[model_type] = name
    missing = set(WAYS) - set(found)
    assert not missing, missing
    table = {"transformers": transformers.__version__, "model_types": dict(sorted(types.items()))}
    rows = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(found.items()))
    head = json.dumps(table, indent=2)[:-2]
    return f'{head},\n  "processors": {{\n{rows}\n  }}\n}}\n'


def weights():
    """Each classification weight once, with its transform's arguments."""
    import torchvision.models as models

    seen = {}
    for module in (models, models.quantization):
        for name in list_models(module=module):
            for one in get_model_weights(name):
                transform = one.transforms()
                if isinstance(transform, ImageClassification):
                    seen[str(one)] = transform
    return seen


def table_of_weights():
    out = io.StringIO()
    out.write(f"# written by tests/scripts/config_tables.py from torchvision {torchvision.__version__.split('+')[0]}\n")
    out.write("# weights,resize_size,crop_size,interpolation,mean,std\n")
    for name, t in sorted(weights().items()):
        (resize,), (crop,) = t.resize_size, t.crop_size
        values = [" ".join(str(v) for v in values) for values in (t.mean, t.std)]
        assert t.antialias, name
        out.write(",".join([f"torchvision:{name}", str(resize), str(crop), t.interpolation.value, *values]) + "\n")
    return out.getvalue()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--check", action="store_true", help="compare with the files there instead of writing them")
    args = args.parse_args()
    differ = []
    for name, text in [("processors.json", processors()), ("torchvision.csv", table_of_weights())]:
        path = FOLDER / name
        if not args.check:
            path.write_text(text)
        elif path.read_text() != text:
            differ.append(name)
    sys.exit(f"other than what the libraries say: {', '.join(differ)}" if differ else 0)


if __name__ == "__main__":
    main()
