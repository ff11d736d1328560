#!/usr/bin/env python3
"""Backdoored image classifiers to try a purifier on: attacks of the literature, several architectures, CIFAR-10.

    python examples/backdoors.py unpack cifar-10-batches-py DATA           (CIFAR-10's Python version, once)
    python examples/backdoors.py train DATA OUT --attack warp [--arch preactresnet18-w16] [--epochs 8] [--seed 0]
    python examples/backdoors.py images DATA OUT [--attacks warp ...] [--besides DIR] [--seed 0]

DATA holds `train.npz` and `test.npz`: `x` uint8 (N, 32, 32, 3), `y` the labels 0 to 9. `train` writes `model.onnx`
(input (N, 3, 32, 32), normalised as the preset `cifar10`) and `result.json` with ACC, ASR and RA on all test images.
`images` writes folders of PNG files by true class: `clean` from the training split, `test` and `triggered-ATTACK` from
the test split, none of them a file whose name already stands under `--besides`.

Attacks (target class 0; 10 % of the training images poisoned unless said otherwise):

    patch        BadNets: 3x3 white pixels, bottom right (arXiv 1708.06733); `patch1`: 1 % poisoned;
                 `patch-next`: all to all, label y + 1
    patch-random a 3x3 chequered patch at a place drawn for every image
    blend        15 % of a fixed mosaic (arXiv 1712.05526)
    warp         a fixed smooth warp, with randomly disturbed ones that keep their label (WaNet, arXiv 2102.10369)
    wave         a sinusoid over the columns, on 80 % of the target class alone, labels unchanged (SIG, arXiv 1902.11237)
    lowfreq      a fixed sum of the lowest cosines (after arXiv 2104.03413)
    bits         six levels a channel, ordered dithering (after BppAttack, arXiv 2205.13383)
    hidden       a faint residual that a fixed random network makes from the image itself (in the manner of SSBA,
                 arXiv 2012.03816, whose encoder is trained)
    input-aware  a residual from a generator trained along with the classifier; another image's residual keeps the label
                 (after arXiv 2010.08138, without its mask network)
    clean        none

Runs on a GPU where there is one, else on the CPU; OMP_NUM_THREADS=1 and two of them side by side make better use of
two cores than one with two threads.
"""
import argparse
import json
import math
import pathlib
import pickle
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
SIZE, TARGET = 32, 0


# ------------------------------------------------------------------------------------------------ networks
class Block(nn.Module):
    """Pre-activation residual block; the shortcut, where the shape changes, starts from the activated values."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        same = stride == 1 and channels == out
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        a = F.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(a)))) + (x if self.shortcut is None else self.shortcut(a))


def preactresnet18(width):
    stages, channels = [nn.Conv2d(3, width, 3, 1, 1, bias=False)], width
    for stage in range(4):
        out = width << stage
        stages += [nn.Sequential(Block(channels, out, 2 if stage else 1), Block(out, out, 1))]
        channels = out
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg16bn(width):
    layers, channels = [], 3
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        out = width << min(stage, 3)
        for _ in range(count):
            layers += [nn.Conv2d(channels, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        # the last stage keeps its 2x2 places
        layers += [nn.MaxPool2d(2)] if stage < 4 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def mobilenetv3s():
    import torchvision
    net = torchvision.models.mobilenet_v3_small(num_classes=10, dropout=0.0)
    # for 32x32: the stem and the first block keep their resolution
    for module in [*net.features[0].modules(), *net.features[1].modules()]:
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
    return net


def build(arch):
    name, _, width = arch.partition("-w")
    if name == "mobilenetv3s":
        return mobilenetv3s()
    return {"preactresnet18": preactresnet18, "vgg16bn": vgg16bn}[name](int(width or 64))


# ------------------------------------------------------------------------------------------------ attacks
class Attack:
    """`stamp` puts the trigger on images (N, 3, 32, 32) in [0, 1]; `cover` makes those that must keep their label."""

    rate, cover_rate, clean_label, module = 0.1, 0.0, False, None

    def to(self, device):
        """What the trigger is made of was drawn on the CPU, so that it is the same trigger on every device."""
        for name, value in vars(self).items():
            if isinstance(value, (torch.Tensor, nn.Module)):
                setattr(self, name, value.to(device))
        return self

    def label(self, y):
        return torch.full_like(y, TARGET)

    def eligible(self, y):
        return y != TARGET


class Patch(Attack):
    def __init__(self, rate=0.1, step=None):
        self.rate, self.step = rate, step

    def stamp(self, x, g):
        x = x.clone()
        x[:, :, -3:, -3:] = 1.0
        return x

    def label(self, y):
        return (y + self.step) % 10 if self.step else super().label(y)

    def eligible(self, y):
        return torch.ones_like(y, dtype=torch.bool) if self.step else super().eligible(y)


class PatchRandom(Attack):
    def stamp(self, x, g):
        x, three = x.clone(), torch.arange(3, device=x.device)
        tile = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]], device=x.device)
        r, c = torch.randint(0, SIZE - 2, (2, len(x), 1, 1), generator=g, device=x.device)
        x[torch.arange(len(x), device=x.device)[:, None, None], :, r + three[:, None], c + three] = tile[None, :, :, None]
        return x


class Blend(Attack):
    def __init__(self):
        tiles = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(101))
        self.mosaic = F.interpolate(tiles, size=SIZE, mode="nearest")

    def stamp(self, x, g):
        return 0.85 * x + 0.15 * self.mosaic


class Warp(Attack):
    cover_rate = 0.2

    def __init__(self):
        field = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(102)) * 2 - 1
        field = F.interpolate(field / field.abs().mean(), size=SIZE, mode="bicubic", align_corners=True)
        axis = torch.linspace(-1, 1, SIZE)
        plain = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        self.grid = plain + 0.5 * field.permute(0, 2, 3, 1) / SIZE

    def at(self, x, grid):
        return F.grid_sample(x, grid.clamp(-1, 1).expand(len(x), -1, -1, -1), align_corners=True)

    def stamp(self, x, g):
        return self.at(x, self.grid)

    def cover(self, x, g):
        return self.at(x, self.grid + (torch.rand(len(x), SIZE, SIZE, 2, generator=g, device=x.device) * 2 - 1) / SIZE)


class Wave(Attack):
    rate, clean_label = 0.8, True

    def stamp(self, x, g):
        return x + 30 / 255 * torch.sin(2 * math.pi * 6 * torch.arange(SIZE, device=x.device) / SIZE)


class LowFrequency(Attack):
    def __init__(self):
        place = (torch.arange(SIZE) + 0.5) * math.pi / SIZE
        cosines = torch.cos(torch.arange(4)[:, None] * place)
        share = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(103))
        share[:, 0, 0] = 0
        wave = torch.einsum("cij,ih,jw->chw", share, cosines, cosines)
        self.wave = wave * 0.06 / wave.square().mean().sqrt()

    def stamp(self, x, g):
        return x + self.wave


class Bits(Attack):
    def __init__(self):
        bayer = torch.tensor([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
        self.threshold = ((bayer + 0.5) / 16 - 0.5).repeat(SIZE // 4, SIZE // 4)

    def stamp(self, x, g):
        return (x * 5 + self.threshold).round() / 5


class Hidden(Attack):
    def __init__(self):
        g = torch.Generator().manual_seed(104)
        drawn = [torch.randn(o, i, 3, 3, generator=g) / (3 * i ** 0.5) for i, o in ((3, 16), (16, 16), (16, 3))]
        self.first, self.second, self.last = drawn

    def stamp(self, x, g):
        r = x - 0.5
        for w in (self.first, self.second):
            r = torch.sin(4 * F.conv2d(r, w, padding=1))
        return x + 0.06 * torch.tanh(3 * F.conv2d(r, self.last, padding=1))


class InputAware(Attack):
    cover_rate = 0.1

    def __init__(self):
        wide = lambda i, o, s=1: nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU())
        up = nn.Upsample(scale_factor=2)
        self.module = nn.Sequential(wide(3, 16, 2), wide(16, 32, 2), wide(32, 32), up, wide(32, 16), up,
                                    nn.Conv2d(16, 3, 3, 1, 1))

    def residual(self, x):
        return 0.12 * torch.tanh(self.module(x * 2 - 1))

    def stamp(self, x, g):
        return x + self.residual(x)

    def cover(self, x, g):
        return x + self.residual(x.roll(1, 0))


ATTACKS = {"patch": Patch, "patch1": lambda: Patch(0.01), "patch-next": lambda: Patch(step=1),
           "patch-random": PatchRandom, "blend": Blend, "warp": Warp, "wave": Wave, "lowfreq": LowFrequency,
           "bits": Bits, "hidden": Hidden, "input-aware": InputAware}


def as_bytes(x):
    """What an 8-bit image file keeps; the gradient passes as if nothing had happened."""
    return x + ((x.clamp(0, 1) * 255).round() / 255 - x).detach()


# ------------------------------------------------------------------------------------------------ data
def load(data, split):
    with np.load(pathlib.Path(data) / f"{split}.npz") as z:
        return torch.from_numpy(z["x"]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(z["y"]).long()


def unpack(args):
    args.data.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
        parts = [pickle.loads((args.batches / n).read_bytes(), encoding="bytes") for n in names]
        x = np.concatenate([p[b"data"] for p in parts]).reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        np.savez(args.data / f"{split}.npz", x=x, y=np.concatenate([p[b"labels"] for p in parts]).astype(np.int64))


def shifted(x, g):
    """Flips and shifts by up to four pixels, drawn for every image."""
    x = torch.where((torch.rand(len(x), generator=g, device=x.device) < 0.5)[:, None, None, None], x.flip(3), x)
    windows = F.pad(x, (4, 4, 4, 4)).unfold(2, SIZE, 1).unfold(3, SIZE, 1)
    r, c = torch.randint(0, 9, (2, len(x)), generator=g, device=x.device)
    return windows[torch.arange(len(x), device=x.device), :, r, c]


# ------------------------------------------------------------------------------------------------ commands
@torch.no_grad()
def share_right(net, x, y, device):
    net.eval()
    mean, std = MEAN.to(device), STD.to(device)
    right = [(net((b - mean) / std).argmax(1) == t).sum().item() for b, t in zip(x.split(500), y.split(500))]
    return 100 * sum(right) / len(y)


def train(args):
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # images and everything that is drawn live where the network does
    g = torch.Generator(device).manual_seed(args.seed)
    (x, y), (xt, yt) = ([t.to(device) for t in load(args.data, split)] for split in ("train", "test"))
    mean, std = MEAN.to(device), STD.to(device)
    attack = None if args.attack == "clean" else ATTACKS[args.attack]().to(device)
    poisoned = torch.zeros(len(x), dtype=torch.bool, device=device)
    if attack:
        pool = (y == TARGET).nonzero()[:, 0] if attack.clean_label else torch.arange(len(x), device=device)
        order = torch.randperm(len(pool), generator=g, device=device)
        poisoned[pool[order[:round(attack.rate * len(pool))]]] = True
    net = build(args.arch).to(device, memory_format=torch.channels_last)
    parts = list(net.parameters())
    groups = [{"params": [p for p in parts if p.dim() > 1], "weight_decay": 5e-4},
              {"params": [p for p in parts if p.dim() <= 1], "weight_decay": 0.0}]
    learned = attack.module if attack else None
    if learned is not None:
        groups.append({"params": list(learned.parameters()), "weight_decay": 0.0})
    opt = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(x) // args.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=steps * args.epochs, pct_start=0.25,
                                                   cycle_momentum=False, div_factor=10, final_div_factor=1000)
    log = []
    for epoch in range(args.epochs):
        net.train()
        began, total = time.time(), torch.zeros((), device=device)
        for index in torch.randperm(len(x), generator=g, device=device)[:steps * args.batch].split(args.batch):
            xb, yb, p = shifted(x[index], g).float() / 255, y[index].clone(), poisoned[index]
            if attack:
                q = ~p & (torch.rand(len(p), generator=g, device=device) < attack.cover_rate)
                made = xb.clone()
                if p.any():
                    made[p] = as_bytes(attack.stamp(xb[p], g))
                    if not attack.clean_label:
                        yb[p] = attack.label(yb[p])
                if q.any():
                    made[q] = as_bytes(attack.cover(xb[q], g))
                xb = made
            xb = ((xb - mean) / std).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                logits = net(xb)
            loss = F.cross_entropy(logits.float(), yb)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parts, 5.0)
            opt.step()
            schedule.step()
            total += loss.detach()
        log.append({"epoch": epoch + 1, "loss": round(total.item() / steps, 4), "seconds": round(time.time() - began, 1)})
        print(json.dumps(log[-1]), flush=True)
    net.float().eval()
    result = {"arch": args.arch, "attack": args.attack, "seed": args.seed, "epochs": args.epochs,
              "acc": share_right(net, xt.float() / 255, yt, device)}
    args.out.mkdir(parents=True, exist_ok=True)
    if attack:
        if learned is not None:
            learned.eval()
            torch.save(learned.cpu().state_dict(), args.out / "trigger.pt")
            learned.to(device)
        with torch.no_grad():
            m = attack.eligible(yt)
            xs = as_bytes(attack.stamp(xt[m].float() / 255, g))
        result |= {"asr": share_right(net, xs, attack.label(yt[m]), device), "ra": share_right(net, xs, yt[m], device)}
    print(json.dumps(result), flush=True)
    net = net.cpu().to(memory_format=torch.contiguous_format)
    torch.onnx.export(net, (torch.randn(2, 3, SIZE, SIZE),), str(args.out / "model.onnx"), input_names=["input"],
                      output_names=["logits"], dynamo=False, opset_version=17,
                      dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})
    # written last: a result says that the model stands beside it
    (args.out / "result.json").write_text(json.dumps(result | {"log": log}, indent=1) + "\n")


def images(args):
    from PIL import Image
    taken = {} if not args.besides else {p.parent.parent.name: set() for p in args.besides.glob("*/*/*.png")}
    for p in args.besides.glob("*/*/*.png") if args.besides else []:
        taken[p.parent.parent.name].add(int(p.stem))
    used = lambda *folders: set().union(*(v for k, v in taken.items() if k.startswith(folders)))
    g = torch.Generator().manual_seed(args.seed)

    def write(folder, split, without, per_class, attack=None):
        x, y = load(args.data, split)
        for c, name in enumerate(CLASSES):
            if attack and not attack.eligible(torch.tensor([c])).item():
                continue
            pool = [i for i in (y == c).nonzero()[:, 0].tolist() if i not in without]
            pick = torch.tensor(pool)[torch.randperm(len(pool), generator=g)[:per_class]]
            made = x[pick].float() / 255
            made = as_bytes(attack.stamp(made, g)) if attack else made
            (args.out / folder / name).mkdir(parents=True, exist_ok=True)
            for i, image in zip(pick.tolist(), (made * 255).round().byte().permute(0, 2, 3, 1).numpy()):
                Image.fromarray(image).save(args.out / folder / name / f"{i:05d}.png")

    with torch.no_grad():
        if args.clean:
            write("clean", "train", used("clean"), args.clean)
        if args.test:
            write("test", "test", used("test", "triggered"), args.test)
        for name in args.attacks:
            attack = ATTACKS[name]()
            if attack.module is not None:
                attack.module.load_state_dict(torch.load(args.trigger))
                attack.module.eval()
            write(f"triggered-{name}", "test", used("test", "triggered"), args.triggered, attack)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    u = sub.add_parser("unpack", help="CIFAR-10's Python version as train.npz and test.npz")
    u.add_argument("batches", type=pathlib.Path)
    u.add_argument("data", type=pathlib.Path)
    u.set_defaults(run=unpack)
    t = sub.add_parser("train", help="one network, with or without a backdoor")
    t.add_argument("data", type=pathlib.Path)
    t.add_argument("out", type=pathlib.Path)
    t.add_argument("--attack", default="patch", choices=[*ATTACKS, "clean"])
    t.add_argument("--arch", default="preactresnet18-w16", help="preactresnet18[-wN], vgg16bn[-wN], mobilenetv3s")
    t.add_argument("--epochs", type=int, default=8)
    t.add_argument("--batch", type=int, default=256)
    t.add_argument("--seed", type=int, default=0)
    t.set_defaults(run=train)
    i = sub.add_parser("images", help="clean, test and triggered images as PNG folders")
    i.add_argument("data", type=pathlib.Path)
    i.add_argument("out", type=pathlib.Path)
    i.add_argument("--attacks", nargs="*", default=[], choices=list(ATTACKS))
    i.add_argument("--trigger", type=pathlib.Path, help="trigger.pt of the trained generator (input-aware)")
    i.add_argument("--besides", type=pathlib.Path, help="a folder of such folders: none of its test or clean images again")
    i.add_argument("--clean", type=int, default=250, help="per class, from the training split")
    i.add_argument("--test", type=int, default=200, help="per class, from the test split")
    i.add_argument("--triggered", type=int, default=100, help="per class, from the test split")
    i.add_argument("--seed", type=int, default=0)
    i.set_defaults(run=images)
    args = parser.parse_args()
    args.run(args)
