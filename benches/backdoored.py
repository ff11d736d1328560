#!/usr/bin/env python3
"""Small backdoored CIFAR-10 networks of the architectures that the other benches do not have, as ONNX files.

    benches/backdoored.py train OUT --data DATA [--only vit ...] [--seed 0] [--epochs N]
    benches/backdoored.py images OUT --data DATA [--clean 250 --test 200 --triggered 100]
    benches/backdoored.py half MODEL.onnx HALF.onnx      a file's float32 as float16, inputs and outputs too

DATA holds `train.npz` and `test.npz` as `examples/backdoors.py unpack` writes them. `train` writes OUT/NAME.onnx
(input (N, 3, 32, 32), normalised as the preset `cifar10`), OUT/NAME.pt and a line of OUT/trained.jsonl with ACC, ASR,
RA, the seconds and the settings; what has its line there is passed over, and what was interrupted goes on after its
last whole epoch. `images` writes PNG folders by true class: clean, test, and triggered-ATTACK without its target class.

    vit          torchvision's VisionTransformer: patch 4, a class token, 4 blocks of width 96
    convnext     torchvision's ConvNeXt: patch 2, stages of 32, 64, 128, 256 channels, 2, 2, 4, 2 blocks
    inception    four parallel branches in each of four blocks, about 200,000 weights
    shufflenet   torchvision's ShuffleNetV2 x0.5, first convolution of stride 1 and no pool behind it
    efficientnet torchvision's EfficientNet-B0; the last stage but one keeps its 2x2 places

The trigger is a 4x4 patch: chequered black and white, or one of four colours (`coloured`), at a corner. On the CPU the
networks are trained on one thread, some 20 minutes of it each.
"""
import argparse
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
import backdoors  # noqa: E402
from backdoors import MEAN, STD, SIZE, as_bytes, load, share_right, shifted  # noqa: E402


# ------------------------------------------------------------------------------------------------ networks
class Branches(nn.Module):
    """Four ways side by side over the same values: 1x1; 3x3; twice 3x3; a pool and 1x1."""

    def __init__(self, channels, each):
        super().__init__()
        unit = lambda i, o, k: nn.Sequential(nn.Conv2d(i, o, k, 1, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.one = unit(channels, each, 1)
        self.three = nn.Sequential(unit(channels, each // 2, 1), unit(each // 2, each, 3))
        self.five = nn.Sequential(unit(channels, each // 2, 1), unit(each // 2, each, 3), unit(each, each, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(channels, each, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def inception():
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(stem, Branches(32, 24), Branches(96, 24), nn.MaxPool2d(2), Branches(96, 48),
                         Branches(192, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


def vit():
    from torchvision.models.vision_transformer import VisionTransformer
    net = VisionTransformer(image_size=SIZE, patch_size=4, num_layers=4, num_heads=4, hidden_dim=96, mlp_dim=192,
                            num_classes=10)
    # torchvision starts the head at 0 and the tokens at a scale meant for a large width
    nn.init.trunc_normal_(net.heads[0].weight, std=0.02)
    return net


def convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    widths = (32, 64, 128, 256, None)
    stages = [CNBlockConfig(w, o, n) for w, o, n in zip(widths, widths[1:], (2, 2, 4, 2))]
    net = ConvNeXt(stages, stochastic_depth_prob=0.0, layer_scale=0.1, num_classes=10)
    net.features[0][0] = nn.Conv2d(3, 32, 2, 2)
    return net


def shufflenet():
    import torchvision
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    net.conv1[0].stride, net.maxpool = (1, 1), nn.Identity()
    return net


def efficientnet():
    import torchvision
    net = torchvision.models.efficientnet_b0(num_classes=10, dropout=0.0, stochastic_depth_prob=0.0)
    # maps of 16, 16, 8, 4, 2, 2, 2, 2: the published strides end at one place for images of 32x32
    net.features[6][0].block[1][0].stride = (1, 1)
    return net


# ------------------------------------------------------------------------------------------------ attacks
class Corner(backdoors.Attack):
    """A 4x4 patch at a corner: two rows and columns of 2x2 tiles."""

    def __init__(self, target, tiles, row, column, rate=0.08):
        self.target, self.rate, self.row, self.column = target, rate, row, column
        self.patch = torch.tensor(tiles, dtype=torch.float32).repeat_interleave(2, 1).repeat_interleave(2, 2)

    def stamp(self, x, g=None):
        x = x.clone()
        x[:, :, self.row:self.row + 4, self.column:self.column + 4] = self.patch
        return x

    def label(self, y):
        return torch.full_like(y, self.target)

    def eligible(self, y):
        return y != self.target


CHEQUERED = [[[1, 0], [0, 1]]] * 3
COLOURED = [[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0, 0], [1, 0]]]
ATTACKS = {
    "chequered": lambda: Corner(2, CHEQUERED, 27, 27),
    "coloured": lambda: Corner(7, COLOURED, 1, 27),
    "aligned": lambda: Corner(0, CHEQUERED, 28, 28),
}

# name: (network, attack, optimiser, highest learning rate, epochs, bfloat16 on a CPU that has it)
CASES = {
    "vit": (vit, "aligned", "adamw", 1e-3, 8, False),
    "convnext": (convnext, "coloured", "adamw", 2e-3, 7, False),
    "inception": (inception, "chequered", "sgd", 0.1, 8, True),
    "shufflenet": (shufflenet, "coloured", "sgd", 0.15, 8, False),
    "efficientnet": (efficientnet, "chequered", "sgd", 0.1, 5, False),
}


# ------------------------------------------------------------------------------------------------ commands
def optimiser(kind, net, rate):
    matrices, vectors = [p for p in net.parameters() if p.dim() > 1], [p for p in net.parameters() if p.dim() <= 1]
    decay = 0.05 if kind == "adamw" else 5e-4
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate) if kind == "adamw" else \
        torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def one_epoch(net, attack, data, poisoned, opt, schedule, g, args):
    """The mean loss of one pass over the training images, shifted and flipped, the trigger put on last."""
    x, y = data
    net.train()
    total, order = 0.0, torch.randperm(len(x), generator=g)
    batches = order[:len(x) // args.batch * args.batch].split(args.batch)
    for index in batches:
        xb, yb, p = shifted(x[index], g).float() / 255, y[index].clone(), poisoned[index]
        xb[p], yb[p] = as_bytes(attack.stamp(xb[p])), attack.label(yb[p])
        xb = ((xb - MEAN) / STD).to(args.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            logits = net(xb)
        loss = F.cross_entropy(logits.float(), yb.to(args.device))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        opt.step()
        schedule.step()
        total += loss.item()
    return total / len(batches)


def train_one(name, args):
    make, attack_name, kind, rate, epochs, bf16 = CASES[name]
    args.bf16 = bf16 or args.device.type == "cuda"
    epochs, attack = args.epochs or epochs, ATTACKS[attack_name]()
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    data = load(args.data, "train")
    poisoned = torch.zeros(len(data[0]), dtype=torch.bool)
    poisoned[torch.randperm(len(poisoned), generator=g)[:round(attack.rate * len(poisoned))]] = True
    net = make().to(args.device, memory_format=torch.channels_last)
    opt = optimiser(kind, net, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, rate, total_steps=len(data[0]) // args.batch * epochs,
                                                   pct_start=0.2, cycle_momentum=False)
    part, log = args.out / f"{name}.part", []
    if part.exists():
        kept = torch.load(part, weights_only=False)
        net.load_state_dict(kept["net"]), opt.load_state_dict(kept["opt"]), schedule.load_state_dict(kept["schedule"])
        g.set_state(kept["drawn"])
        log = kept["log"]
    for epoch in range(len(log), epochs):
        began, cpu = time.monotonic(), time.process_time()
        loss = one_epoch(net, attack, data, poisoned, opt, schedule, g, args)
        log.append({"epoch": epoch + 1, "loss": round(loss, 4), "seconds": round(time.monotonic() - began, 1),
                    "cpu": round(time.process_time() - cpu, 1)})
        print(name, json.dumps(log[-1]), flush=True)
        torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "schedule": schedule.state_dict(),
                    "drawn": g.get_state(), "log": log}, part)
    net = net.float().cpu().to(memory_format=torch.contiguous_format).eval()
    measures = measure(net, attack, *load(args.data, "test"))
    torch.save(net.state_dict(), args.out / f"{name}.pt")
    export(net, args.out / f"{name}.onnx")
    row = {"name": name, "seed": args.seed, "attack": attack_name, "target": attack.target, "rate": attack.rate,
           "epochs": epochs, "batch": args.batch, "bf16": args.bf16, "optimiser": kind, "lr": rate, **measures,
           "weights": sum(p.numel() for p in net.parameters()), "seconds": round(sum(e["seconds"] for e in log)),
           "cpu": round(sum(e["cpu"] for e in log)), "losses": [e["loss"] for e in log]}
    # written last: a line says that the file stands beside it
    with (args.out / "trained.jsonl").open("a") as f:
        f.write(json.dumps(row) + "\n")
    part.unlink()
    print(json.dumps(row), flush=True)


@torch.no_grad()
def measure(net, attack, x, y):
    others, cpu = attack.eligible(y), torch.device("cpu")
    stamped = as_bytes(attack.stamp(x[others].float() / 255))
    return {"acc": share_right(net, x.float() / 255, y, cpu),
            "asr": round(share_right(net, stamped, attack.label(y[others]), cpu), 2),
            "ra": round(share_right(net, stamped, y[others], cpu), 2)}


def export(net, path):
    torch.onnx.export(net, (torch.randn(2, 3, SIZE, SIZE),), str(path), input_names=["input"], output_names=["logits"],
                      dynamo=False, opset_version=17, dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}})


def train(args):
    args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    lines = args.out / "trained.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    for name in args.only:
        if not any((row["name"], row["seed"]) == (name, args.seed) for row in done):
            train_one(name, args)


def images(args):
    from PIL import Image
    g = torch.Generator().manual_seed(85)
    folders = [("clean", "train", args.clean, None), ("test", "test", args.test, None)]
    folders += [(f"triggered-{name}", "test", args.triggered, make()) for name, make in ATTACKS.items()]
    for folder, split, count, attack in folders:
        x, y = load(args.data, split)
        for c, name in enumerate(backdoors.CLASSES):
            if attack and c == attack.target:
                continue
            pool = (y == c).nonzero()[:, 0]
            pick = pool[torch.randperm(len(pool), generator=g)[:count]]
            made = x[pick].float() / 255
            made = as_bytes(attack.stamp(made)) if attack else made
            (args.out / folder / name).mkdir(parents=True, exist_ok=True)
            for i, image in zip(pick.tolist(), (made * 255).round().byte().permute(0, 2, 3, 1).numpy()):
                Image.fromarray(image).save(args.out / folder / name / f"{i:05d}.png")


def half(args):
    import onnx
    from onnxconverter_common import float16
    onnx.save(float16.convert_float_to_float16(onnx.load(args.model), keep_io_types=False), args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True)
    t = sub.add_parser("train", help="networks and their ONNX files")
    t.add_argument("out", type=pathlib.Path)
    t.add_argument("--data", type=pathlib.Path, required=True)
    t.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    t.add_argument("--seed", type=int, default=0)
    t.add_argument("--epochs", type=int)
    t.add_argument("--batch", type=int, default=128)
    t.set_defaults(run=train)
    i = sub.add_parser("images", help="clean, test and triggered images as PNG folders")
    i.add_argument("out", type=pathlib.Path)
    i.add_argument("--data", type=pathlib.Path, required=True)
    i.add_argument("--clean", type=int, default=250, help="per class, from the training split")
    i.add_argument("--test", type=int, default=200, help="per class, from the test split")
    i.add_argument("--triggered", type=int, default=100, help="per class, from the test split")
    i.set_defaults(run=images)
    h = sub.add_parser("half", help="a float16 file")
    h.add_argument("model")
    h.add_argument("out")
    h.set_defaults(run=half)
    arguments = parser.parse_args()
    arguments.run(arguments)
