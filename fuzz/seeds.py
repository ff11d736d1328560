"""Writes the seed corpora: fuzz/seeds/TARGET/*. Needs nothing but Python."""

import io
import json
import shutil
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "tests" / "vectors"

# how the target `arrays` knows what a file is called
KINDS = {".npy": 0, ".npz": 1, ".safetensors": 2, "-ubyte": 3, ".gz": 4}


def seeds(target, files):
    folder = HERE / "seeds" / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files:
        (folder / name).write_bytes(content)


def images():
    """Every vector but the expected values."""
    for path in sorted(p for p in (VECTORS / "images").rglob("*") if p.is_file()):
        if path.suffix != ".safetensors":
            yield path.name, path.read_bytes()


def arrays():
    for path in sorted((VECTORS / "arrays").rglob("*")):
        kind = next((kind for ending, kind in KINDS.items() if path.name.endswith(ending)), None)
        if kind is not None and path.stat().st_size < 32_768:
            yield path.name, bytes([kind]) + path.read_bytes()


def archives():
    picture = (VECTORS / "images" / "L.png").read_bytes()
    layouts = {
        "classes": ["cat/1.png", "dog/1.png"],
        "around": ["set/cat/1.png", "set/dog/1.png", "__MACOSX/set/cat/._1.png", "set/labels.csv"],
        "flat": ["1.png", "2.png"],
        "out": ["../1.png", "cat/1.png"],
        "empty": ["cat/1.png", "dog/"],
    }
    for name, members in layouts.items():
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", method) as archive:
                for member in members:
                    archive.writestr(member, b"" if member.endswith("/") else picture)
            yield f"{name}-{method}.zip", out.getvalue()


def class_lists():
    texts = [
        "cat\ndog\n",
        "0,cat\n1,dog\n",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        '["cat", "dog"]',
        '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}',
        '{"label_names": ["cat", "dog"]}',
        '{"cat": 0, "dog": 1}',
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}',
    ]
    for i, text in enumerate(texts):
        yield f"{i}.txt", text.encode()


def configs():
    names = ["preprocessor_config.json", "config.json"]
    for i, case in enumerate(json.loads((VECTORS / "config.json").read_text())["cases"]):
        kind = next((k for k, name in enumerate(names) if name in case["name"]), 2)
        yield f"{i}.txt", bytes([kind]) + case["text"].encode()


for make in (archives, arrays, class_lists, configs, images):
    seeds(make.__name__, make())
