#!/usr/bin/env python3
"""Reference: NPD's published training procedure in eager PyTorch, on an ONNX file and image folders.

    python npd_torch.py MODEL.onnx --clean DIR --test DIR --triggered DIR --site NODE [--epochs 50] ...

It says what the numbers should be and how long the published structure takes: every forward is run
where the published code runs it. Prints one JSON object a line.
NPD: Zhu, Wei, Zha, Wu: Neural Polarizer, NeurIPS 2023 (arXiv 2306.16697), as its published code runs.

Besides the published procedure it has what the controls and the comparison with the Rust tool need:
    --holdout 0.2    leave that share of every class out of training and say the ACC on it
    --statistics     "warm-up": running statistics from the warm-up, as published; "exact": from one pass
                     over all clean images, the warm-up left out; "auto": exact below 60 warm-up steps
    --inner-steps 0  the layer trained without the adversary (L1 alone is then all that is left of the loss)
    --layer identity the layer starts as the identity (BatchNorm weight sigma, bias mu), not as a whitening
    --epochs 0       an untrained layer
Needs torch, onnx, numpy, pillow. Runs on CUDA where there is one (--device cpu prevents it).
"""
import argparse
import json
import pathlib
import time

import numpy as np
import onnx
import torch
import torch.nn as nn
import torch.nn.functional as F
from onnx import numpy_helper

PRESETS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "gtsrb": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Clip(torch.autograd.Function):
    """clip(v, 0, 1) with slope 1 where 0 <= v <= 1, bounds included: what clamp did when the method was published. Newer
    PyTorch (2.15, for one) gives clamp slope 0 at its bounds, and black and white pixels, which lie there, would never move.
    """

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward((v >= 0) & (v <= 1))
        return v.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


# ---------------------------------------------------------------- an ONNX graph in PyTorch
def pads(a, rank):
    p = a.get("pads", [0] * 2 * rank)
    return [v for d in reversed(range(rank)) for v in (p[d], p[d + rank])]


def conv(x, w, b, a):
    if "pads" in a and a["pads"][:2] == a["pads"][2:]:
        return F.conv2d(x, w, b, a.get("strides", 1), a["pads"][:2], a.get("dilations", 1), a.get("group", 1))
    return F.conv2d(F.pad(x, pads(a, 2)), w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def ints(t):
    return [int(v) for v in t.tolist()]


def reshape(x, shape):
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(ints(shape))])


def reduce_mean(x, a, axes):
    axes = ints(axes) if axes is not None else a.get("axes")
    return x.mean(dim=axes, keepdim=bool(a.get("keepdims", 1)))


def slice_(x, starts, ends, axes=None, steps=None):
    axes = ints(axes) if axes is not None else list(range(len(starts)))
    index = [slice(None)] * x.dim()
    for s, e, axis, step in zip(ints(starts), ints(ends), axes, ints(steps) if steps is not None else [1] * len(axes)):
        index[axis] = slice(s, min(e, 2**31), step)
    return x[tuple(index)]


OPS = {
    "Conv": lambda a, x, w, b=None: conv(x, w, b, a),
    "BatchNormalization": lambda a, x, s, b, m, v: F.batch_norm(x, m, v, s, b, False, 0.0, a.get("epsilon", 1e-5)),
    "Relu": lambda a, x: F.relu(x),
    "Clip": lambda a, x, lo=None, hi=None: torch.clamp(x, None if lo is None else lo.item(), None if hi is None else hi.item()),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "HardSigmoid": lambda a, x: torch.clamp(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda a, x: F.hardswish(x),
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "MaxPool": lambda a, x: F.max_pool2d(F.pad(x, pads(a, 2), value=float("-inf")), a["kernel_shape"], a.get("strides", 1),
                                         0, a.get("dilations", 1), bool(a.get("ceil_mode", 0))),
    "AveragePool": lambda a, x: F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), a.get("pads", [0, 0])[:2],
                                             bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "ReduceMean": lambda a, x, axes=None: reduce_mean(x, a, axes),
    "Gemm": lambda a, x, w, b=None: F.linear(x, w if a.get("transB") else w.t(), b),
    "MatMul": lambda a, x, y: x @ y,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Reshape": lambda a, x, s: reshape(x, s),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Squeeze": lambda a, x, axes: x.squeeze(tuple(ints(axes))),
    "Unsqueeze": lambda a, x, axes: x.unsqueeze(ints(axes)[0]),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Shape": lambda a, x: torch.tensor(x.shape),
    "Gather": lambda a, x, i: x[int(i)] if i.dim() == 0 else torch.index_select(x, a.get("axis", 0), i),
    "Slice": lambda a, *xs: slice_(*xs),
    "Identity": lambda a, x: x,
    "Constant": lambda a: torch.from_numpy(numpy_helper.to_array(a["value"]).copy()),
}


class Graph(nn.Module):
    """The graph, frozen. `polarizer` is applied to input 0 of the node named `site`."""

    def __init__(self, path, site):
        super().__init__()
        g = onnx.load(path).graph
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in g.initializer}
        self.input = next(i.name for i in g.input if i.name not in self.constants)
        self.output = g.output[0].name
        self.nodes = []
        for n in g.node:
            a = {p.name: onnx.helper.get_attribute_value(p) for p in n.attribute}
            self.nodes.append((OPS[n.op_type], a, list(n.input), n.output[0], n.name))
        names = [n.name for n in g.node]
        if site not in names:
            raise SystemExit(f"no node {site}; convolutions: {[n.name for n in g.node if n.op_type == 'Conv']}")
        self.site, self.polarizer = site, None

    def to(self, device):
        self.constants = {k: v.to(device) if v.is_floating_point() else v for k, v in self.constants.items()}
        return super().to(device)

    def forward(self, x):
        values = {self.input: x}
        for op, a, ins, out, name in self.nodes:
            args = [None if not i else values[i] if i in values else self.constants[i] for i in ins]
            if name == self.site and self.polarizer is not None:
                args[0] = self.polarizer(args[0])
            values[out] = op(a, *args)
        return values[self.output]


def channels_at(net, x):
    seen = []
    net.polarizer = lambda v: (seen.append(v.shape[1]), v)[1]
    with torch.no_grad():
        net(x)
    net.polarizer = None
    return seen[0]


# ---------------------------------------------------------------- data
def load_folder(directory, classes=None):
    from PIL import Image
    root = pathlib.Path(directory)
    classes = classes or sorted(p.name for p in root.iterdir() if p.is_dir())
    xs, ys = [], []
    for c, name in enumerate(classes):
        if (root / name).is_dir():
            for f in sorted((root / name).iterdir()):
                xs.append(np.asarray(Image.open(f).convert("RGB")))
                ys.append(c)
    return torch.from_numpy(np.stack(xs)).permute(0, 3, 1, 2).float() / 255, torch.tensor(ys), classes


@torch.no_grad()
def answers(net, x, normalise, device, amp):
    out = []
    for i in range(0, len(x), 500):
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            out.append(net(normalise(x[i:i + 500].to(device))).float().argmax(1).cpu())
    return torch.cat(out)


# ---------------------------------------------------------------- the method
@torch.no_grad()
def exact_statistics(net, g, x, normalise, device):
    """Running mean and (unbiased) variance of the layer's BatchNorm over all of x, in float64."""
    seen = []
    hook = g[0].register_forward_hook(lambda module, given, made: seen.append(made.double().cpu()))
    for i in range(0, len(x), 500):
        net(normalise(x[i:i + 500].to(device)))
    hook.remove()
    v = torch.cat(seen).transpose(0, 1).flatten(1)
    g[1].running_mean.copy_(v.mean(1))
    g[1].running_var.copy_(v.var(1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--clean", required=True)
    p.add_argument("--test")
    p.add_argument("--triggered")
    p.add_argument("--target", default="0", help="class name or index")
    p.add_argument("--site", required=True)
    p.add_argument("--preset", default="cifar10")
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--epochs", type=int, default=50)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--warm-lr", type=float, default=1e-4)
    p.add_argument("--inner-steps", type=int, default=2)
    p.add_argument("--inner-step", type=float, default=0.1)
    p.add_argument("--rho", type=float)
    p.add_argument("--lambdas", type=float, nargs=4, default=(1.0, 0.4, 0.4, 0.4))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--amp", action="store_true", help="bfloat16 autocast (quicker, for looking around only)")
    p.add_argument("--tf32", action="store_true")
    p.add_argument("--threads", type=int)
    p.add_argument("--eval-every", type=int, default=0)
    p.add_argument("--holdout", type=float, default=0.0)
    p.add_argument("--statistics", choices=("warm-up", "exact", "auto"), default="auto")
    p.add_argument("--layer", choices=("whitening", "identity"), default="whitening")
    p.add_argument("--device", choices=("cpu", "cuda"))
    args = p.parse_args()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    x, y, classes = load_folder(args.clean)
    test = load_folder(args.test, classes)[:2] if args.test else None
    bad = load_folder(args.triggered, classes)[:2] if args.triggered else None
    target_class = int(args.target) if args.target.isdigit() else classes.index(args.target)
    held = None
    if args.holdout:
        rank = torch.Generator().manual_seed(args.seed)
        out = torch.zeros(len(x), dtype=torch.bool)
        for c in range(len(classes)):
            members = (y == c).nonzero()[:, 0]
            out[members[torch.randperm(len(members), generator=rank)[:round(args.holdout * len(members))]]] = True
        held, x, y = (x[out], y[out]), x[~out], y[~out]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(device) for v in PRESETS[args.preset])

    def normalise(v):
        return (v - mean) / std

    rho = args.rho or 3.0 * (x[0].numel() / 3072) ** 0.5
    net = Graph(args.model, args.site).to(device)

    def measure():
        row = {}
        if held:
            a = answers(net, held[0], normalise, device, args.amp)
            row["acc_held_out"] = 100 * (a == held[1]).float().mean().item()
        if test:
            row["acc"] = 100 * (answers(net, test[0], normalise, device, args.amp) == test[1]).float().mean().item()
        if bad:
            a = answers(net, bad[0], normalise, device, args.amp)
            row["asr"] = 100 * (a == target_class).float().mean().item()
            row["ra"] = 100 * (a == bad[1]).float().mean().item()
        return {k: round(v, 2) for k, v in row.items()}

    c = channels_at(net, normalise(x[:2].to(device)))
    print(json.dumps({"phase": "before", "images": len(x), "channels": c, "rho": rho, **measure()}), flush=True)
    g = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c)).to(device)
    with torch.no_grad():
        g[0].weight.copy_(torch.eye(c)[:, :, None, None])
    net.polarizer = g
    generator = torch.Generator().manual_seed(args.seed)

    def batches():
        for index in torch.randperm(len(x), generator=generator).split(args.batch):
            yield x[index].to(device), y[index].to(device)

    def forward(pixels):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            return net(normalise(pixels)).float()

    began = time.time()
    steps = -(-len(x) // args.batch)
    if args.layer == "identity" or args.statistics == "exact" or args.statistics == "auto" and args.warmup * steps < 60:
        exact_statistics(net, g, x, normalise, device)
        if args.layer == "identity":
            with torch.no_grad():
                g[1].weight.copy_((g[1].running_var + g[1].eps).sqrt())
                g[1].bias.copy_(g[1].running_mean)
        args.warmup = 0
        g.eval()
        print(json.dumps({"phase": "statistics", "seconds": round(time.time() - began, 2), **measure()}), flush=True)
    opt = torch.optim.SGD(g.parameters(), lr=args.warm_lr)
    g.train()
    for epoch in range(args.warmup):
        losses = []
        for xb, yb in batches():
            loss = F.cross_entropy(forward(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        print(json.dumps({"phase": "warm-up", "epoch": epoch + 1, "loss": float(np.mean(losses)),
                          "first": losses[0], "seconds": round(time.time() - began, 2)}), flush=True)
    g.eval()
    opt = torch.optim.SGD(g.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    l1, l2, l3, l4 = args.lambdas
    for epoch in range(args.epochs):
        rows = []
        for xb, yb in batches():
            with torch.no_grad():
                z = forward(xb)
            original = z.argmax(1)
            target = z.scatter(1, yb[:, None], -10.0).argmax(1)
            delta = torch.zeros_like(xb)
            for _ in range(args.inner_steps):
                delta.requires_grad_(True)
                ce = F.cross_entropy(forward(Clip.apply(xb + delta)), target, reduction="none")
                grad, = torch.autograd.grad(ce.clamp(-80, 80).mean(), delta)
                with torch.no_grad():
                    delta = delta - args.inner_step * grad.sign()
                    norm = delta.flatten(1).norm(dim=1)[:, None, None, None]
                    delta = torch.where(norm > rho, delta * rho / norm, delta)
                    reached = (forward((xb + delta).clamp(0, 1)).argmax(1) == target).float().mean().item()
                if reached > 0.6:
                    break
            adversarial = (xb + delta).clamp(0, 1).detach()
            loss1 = F.cross_entropy(forward(xb), yb)
            za = forward(adversarial)
            loss2 = F.cross_entropy(za, original)
            prob = F.softmax(za, 1)
            top = prob.argsort(1)[:, -2:]
            wrong = torch.where(top[:, 1] == yb, top[:, 0], top[:, 1])
            log_not = torch.log(1.0001 - prob + 1e-12)
            loss3 = F.nll_loss(log_not, wrong)
            loss4 = F.nll_loss(log_not, target)
            loss = l1 * loss1 + l2 * loss2 + l3 * loss3 + l4 * loss4
            if not args.inner_steps:
                loss, reached = loss1, 0.0
            opt.zero_grad()
            loss.backward()
            opt.step()
            rows.append([v.item() for v in (loss, loss1, loss2, loss3, loss4)] + [reached])
        m = np.mean(rows, 0)
        row = {"phase": "train", "epoch": epoch + 1, "loss": m[0], "l1": m[1], "l2": m[2], "l3": m[3], "l4": m[4],
               "reached": m[5], "first": rows[0][0], "seconds": round(time.time() - began, 2)}
        if args.eval_every and (epoch + 1) % args.eval_every == 0:
            g.eval()
            row.update(measure())
        print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    print(json.dumps({"phase": "after", "seconds": round(time.time() - began, 2), **measure()}), flush=True)


if __name__ == "__main__":
    main()
