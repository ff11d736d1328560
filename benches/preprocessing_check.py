#!/usr/bin/env python3
"""Does the check find a wrong preprocessing, and leave a right one alone?

    python benches/preprocessing_check.py make DIR                    # two 64-pixel networks and their images (torch; minutes)
    python benches/preprocessing_check.py run BINARY DIR --csv FILE [--models DIR --images DIR]

`make` draws signs (the fixture's) on pictures of odd sizes and trains one small network on pictures stretched to 64x64 and
one on the centre crop of pictures whose shorter edge is 73; crops cannot be told apart on pictures of 32x32. `run` asks the
binary to evaluate each network as it should be and in each wrong way, and writes one row each: exit code, what was said,
seconds; what was said goes to said.csv beside FILE. --models and --images: a folder of CIFAR-10 networks (.onnx), and one of its test images in class folders.
"""
import argparse
import csv
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EACH = {"train": 400, "test": 30}
EPOCHS = 12
FORMS = {"stretch": ["--size", "64", "--resize", "stretch"], "crop": ["--size", "64", "--resize", "shortest-edge:73", "--crop", "center"]}
NORMAL = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


def sign(draw, fixture, name, rng, radius, centre, ground):
    """One sign in a colour that stands apart from the ground."""
    import numpy as np

    colour = fixture.colour(rng)
    while abs(ground - colour).sum() < 240:
        colour = fixture.colour(rng)
    turn = rng.uniform(-0.2, 0.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    place = lambda outline: [tuple(p) for p in (outline @ rotation.T) * radius + centre]
    filled, hole = fixture.outline(name, rng)
    draw.polygon(place(filled), fill=tuple(int(v) for v in colour))
    if hole is not None:
        draw.polygon(place(hole), fill=tuple(int(v) for v in ground))


def picture(name, rng, form):
    """A picture of odd size. `stretch`: its sign stands anywhere. `crop`: in the centre, and others at both ends."""
    import numpy as np
    from PIL import Image, ImageDraw

    sys.path.insert(0, str(ROOT / "fixtures"))
    import make as fixture

    long, short = int(rng.integers(130, 160)), int(rng.integers(66, 80))
    upright = rng.random() < 0.5
    w, h = (short, long) if upright else (long, short)
    ground = fixture.colour(rng)
    image = Image.new("RGB", (w, h), tuple(int(v) for v in ground))
    draw = ImageDraw.Draw(image)
    along = lambda at, across: np.array([across, at] if upright else [at, across])
    if form == "stretch":
        radius = rng.uniform(22, 30)
        sign(draw, fixture, name, rng, radius, along(rng.uniform(radius, long - radius), short / 2), ground)
    else:
        others = rng.choice([c for c in fixture.CLASSES if c != name], 2)
        for other, at in zip(others, (20, long - 20)):
            sign(draw, fixture, other, rng, 18, along(at, short / 2), ground)
        sign(draw, fixture, name, rng, rng.uniform(20, 26), along(long / 2, short / 2), ground)
    noisy = np.asarray(image, np.float32) + rng.normal(0, 6, (h, w, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_all(out):
    import numpy as np

    sys.path.insert(0, str(ROOT / "fixtures"))
    import make as fixture

    for f, form in enumerate(FORMS):
        for k, (part, each) in enumerate(EACH.items()):
            for c, name in enumerate(fixture.CLASSES):
                folder = out / form / part / name
                folder.mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng([2026, f, k, c])
                for i in range(each):
                    picture(name, rng, form).save(folder / f"{i:03d}.png")


def train(out, form):
    import torch
    from torch import nn
    from torchvision import datasets, transforms as T

    torch.manual_seed(0)
    geometry = {"stretch": [T.Resize((64, 64))], "crop": [T.Resize(73), T.CenterCrop(64)]}[form]
    steps = T.Compose([*geometry, T.ToTensor(), T.Normalize(MEAN, STD)])
    load = lambda part: [torch.stack(v) if k == 0 else torch.tensor(v) for k, v in enumerate(zip(*datasets.ImageFolder(out / form / part, steps)))]
    (x, y), (tx, ty) = load("train"), load("test")
    block = lambda i, o, s: [nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    body = [*block(3, 16, 2), *block(16, 32, 1), *block(32, 32, 2), *block(32, 64, 1), *block(64, 64, 2), *block(64, 96, 2)]
    net = nn.Sequential(*body, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=EPOCHS * (len(x) // 64 + 1))
    for _ in range(EPOCHS):
        net.train()
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    accuracy = (net(tx).argmax(1) == ty).float().mean().item()
    print(f"{form}: {100 * accuracy:.1f} % on the test images")
    names = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": {"input": {0: "N"}, "logits": {0: "N"}}}
    torch.onnx.export(net, tx[:1], str(out / f"{form}.onnx"), dynamo=False, **names)


def swapped(folder, out):
    """The class folders' names with the first two exchanged, as a class file."""
    names = sorted(p.name for p in folder.iterdir())
    names[0], names[1] = names[1], names[0]
    file = out / f"swapped-{names[0]}-{names[1]}-{folder.parent.name}.txt"
    file.write_text("\n".join(names) + "\n")
    return str(file)


def wrong_in_general(right, swap):
    """Situations that every network can be tried in: name, options, what the check should do."""
    plain = [o for o in right if o not in ("--preset", "cifar10")]
    geometry = plain[: plain.index("--mean")] if "--mean" in plain else []
    return [
        ("as it should be", right, "accept"),
        ("blue first", [*right, "--channels", "bgr"], "refuse"),
        ("0 to 255", [*geometry, "--range", "0-255"], "refuse"),
        ("not normalised", [*geometry, "--range", "normalized-0-1"], "refuse"),
        ("-1 to 1", [*geometry, "--range", "normalized-1-1"], "either"),
        ("two classes swapped", [*right, "--classes", swap], "refuse"),
    ]


def ask(binary, model, images, options):
    began = time.time()
    run = subprocess.run([binary, "evaluate", model, "--test", images, *options], capture_output=True, text=True)
    said = run.stderr.strip().splitlines()
    said = next((line for line in said if line.startswith(("error", "warning"))), "")
    accuracy = re.search(r"ACC +([\d.]+)", run.stdout)
    return run.returncode, said, accuracy.group(1) if accuracy else "", f"{time.time() - began:.1f}"


def run(arguments):
    out = pathlib.Path(arguments.dir)
    tried = []
    for form, geometry in FORMS.items():
        right = [*geometry, *NORMAL]
        other = FORMS["crop" if form == "stretch" else "stretch"]
        situations = wrong_in_general(right, swapped(out / form / "test", out))
        situations.append(("crop for stretch" if form == "stretch" else "stretch for crop", [*other, *NORMAL], "refuse"))
        situations.append(("nearest for bilinear", [*right, "--interpolation", "nearest"], "either"))
        tried += [(out / f"{form}.onnx", out / form / "test", *s) for s in situations]
    fixture = ROOT / "fixtures"
    sets = [(fixture / "model.onnx", fixture / "images/test")]
    if arguments.models:
        sets += [(model, pathlib.Path(arguments.images)) for model in sorted(pathlib.Path(arguments.models).glob("*.onnx"))]
    for model, images in sets:
        tried += [(model, images, *s) for s in wrong_in_general(["--preset", "cifar10"], swapped(images, out))]
    beside = pathlib.Path(arguments.csv).with_name("said.csv")
    with open(arguments.csv, "w", newline="") as file, open(beside, "w", newline="") as texts:
        rows, sayings = csv.writer(file, lineterminator="\n"), csv.writer(texts, lineterminator="\n")
        rows.writerow(["network", "situation", "should", "exit code", "ACC in %", "seconds", "verdict"])
        sayings.writerow(["network", "situation", "said"])
        for model, images, name, options, should in tried:
            code, said, accuracy, seconds = ask(arguments.binary, str(model), str(images), options)
            verdict = {("accept", 0): "right", ("refuse", 2): "found", ("accept", 2): "FALSE ALARM", ("refuse", 0): "missed"}
            verdict = verdict.get((should, code), "refused" if code == 2 else "accepted")
            if code == 0 and said:
                verdict = "false warning" if should == "accept" else "warned"
            if should == "accept":
                right = float(accuracy or 0)
            elif verdict == "missed" and right - float(accuracy) < 10:
                verdict = "small loss"
            said = said.replace(str(images), "IMAGES").replace(str(out), "DIR")
            rows.writerow([model.stem, name, should, code, accuracy, seconds, verdict])
            sayings.writerow([model.stem, name, said])
            print(f"{model.stem:28} {name:22} {verdict:12} {accuracy:>6} {seconds:>6} s  {said[:110]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("dir")
    check = commands.add_parser("run")
    for name in ("binary", "dir"):
        check.add_argument(name)
    check.add_argument("--csv", required=True)
    check.add_argument("--models")
    check.add_argument("--images")
    arguments = parser.parse_args()
    if arguments.command == "run":
        return run(arguments)
    out = pathlib.Path(arguments.dir)
    draw_all(out)
    for form in FORMS:
        train(out, form)


if __name__ == "__main__":
    main()
