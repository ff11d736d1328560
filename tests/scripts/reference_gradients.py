#!/usr/bin/env python3
"""Gradients and updates of the method as PyTorch computes them: tests/vectors/{gradients-*,update_rule}.*

    python tests/scripts/reference_gradients.py                          # fixture and update rule
    python tests/scripts/reference_gradients.py --shared ../shared       # PreAct-ResNet18 as well

float32 on the CPU, one thread; the same in float64 says how much of a figure is rounding (`float64`).
Needs torch, onnx, numpy, pillow. The network is read by benches/reference/npd_torch.py.

Numbers that both sides can make are not stored. u(seed, i) is exact in float32, in [-1, 1):

    x = i + 0x9E3779B9 * seed                       (32 bit, wrapping, like all that follows)
    x ^= x >> 16;  x *= 0x7FEB352D;  x ^= x >> 15;  x *= 0x846CA68B;  x ^= x >> 16
    u = float(x >> 8) / 2^23 - 1

The layer's start, C channels (all in float32, one rounding an operation):
    conv.weight[o][i] = (1 if o == i else 0) + 0.02 u(1, o C + i)
    bn.weight[c]      = 1 + 0.1 u(2, c);  bn.bias[c] = 0.1 u(3, c)
    running mean and (unbiased) variance: of the site's own values over the candidates, stored

The candidates are 128 images, number i being file i / K (rounded down) of class i % K, classes and files
in the order of their names, K the number of classes. The batch (`files`) is the first 32 of them whose
gradients do not hang on the last digit of float32: see `sure`. x in [0, 1]; the network sees
(clip(x + delta, 0, 1) - mean) / std, and gradients are those with respect to delta.

gradients-NAME.json
    model, sha256, site, folder, files (in order), mean, std, batch, channels, inner_step, lambdas
    rho                    smaller than the published 3, so that fewer answers are beyond doubt: see `sure`
    warmup.loss            cross-entropy with the layer in training mode
    bilevel.l1 .. l4, loss the four losses at delta2 and their weighted sum
    float64.*              largest difference to the float64 run, as a share of the tensor's largest
                           entry (per image for inner1, inner2: the worst image)
gradients-NAME.safetensors (f32 unless it says otherwise; N images, C channels)
    running_mean, running_var (C)      the start's
    labels, t, original, w (N, i64)    labels; z's runner-up; z's answer; the likeliest wrong class at
                                       delta2; t and original belong to the layer in evaluation mode
    logits (N, K)                      z, evaluation mode, without delta
    adversarial (N, K)                 at delta2, evaluation mode
    warmup.logits (N, K)               training mode
    warmup.running_mean, .running_var  after that one pass
    G.value, G.norm, G.max             G one of {warmup,bilevel}.{conv.weight,bn.weight,bn.bias}:
                                       gradient, flat; its 2-norm and largest magnitude, of all entries
    G.index (i64)                      which entries G.value holds; absent: all of them
    signs (N, 3, H, W, u8)             3 (s1 + 1) + (s2 + 1), s1 and s2 the signs of inner1 and inner2
    norms (N, 2)                       2-norms before each projection
    inner1.*, inner2.*                 gradient of mean CE(f(clip(x + delta)), t) at delta = 0 and at
                                       delta1: .index (M) into an image's C H W entries, .value (N, M),
                                       .norm and .max (N)
    From these, exactly (0.1 and rho in float32, products before quotients):
        d1 = -0.1 s1;          delta1 = d1 rho / norms[0] where norms[0] > rho, else d1
        d2 = delta1 - 0.1 s2;  delta2 = d2 rho / norms[1] where norms[1] > rho, else d2
    Both inner steps are taken, whatever the share of images answered t.

update_rule.json
    sgd: lr, momentum, weight_decay, size, steps; start[i] = u(11, i), gradient of step s = u(12 + s, i);
         after[s]: the parameters after step s
    ball: rho, step, shape (N, C, H, W), density[n], steps; gradient g[n, i] of step s, e = n C H W + i:
         0 where u(30 + s, e) > density[n], else u(20 + s, e);
         sums[s][n]: norm, sum and sum of squares of image n's delta after step s (sums in float64),
         first[s][n]: its first 64 entries
    stop: answers, t, stop: whether the inner loop ends after a step with these answers
"""
import argparse
import hashlib
import json
import pathlib
import struct
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches/reference"))
import npd_torch  # noqa: E402

VECTORS = ROOT / "tests/vectors"
RHO, STEP, LAMBDAS = 0.5, 0.1, (1.0, 0.4, 0.4, 0.4)
CANDIDATES = 128


def u(seed, count):
    x = (np.arange(count, dtype=np.uint64) + 0x9E3779B9 * seed).astype(np.uint32)
    with np.errstate(over="ignore"):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    return torch.from_numpy((x >> np.uint32(8)).astype(np.float32) / np.float32(2 ** 23) - np.float32(1))


def write_safetensors(path, tensors):
    kinds = {np.dtype("float32"): "F32", np.dtype("int64"): "I64", np.dtype("uint8"): "U8"}
    header, blobs, at = {}, [], 0
    # the widest types first: every tensor then starts aligned
    for name, t in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        data = np.ascontiguousarray(t.numpy())
        header[name] = {"dtype": kinds[data.dtype], "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        blobs.append(data.tobytes())
        at += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


# ---------------------------------------------------------------- gradients
def first_images(folder, count):
    from PIL import Image
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    files = [sorted((folder / c).iterdir()) for c in classes]
    chosen = [files[i % len(classes)][i // len(classes)] for i in range(count)]
    x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in chosen])
    labels = torch.tensor([i % len(classes) for i in range(count)])
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255, labels, [str(f.relative_to(folder)) for f in chosen]


def layer(channels, dtype):
    g = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
    with torch.no_grad():
        weight = torch.eye(channels) + torch.tensor(0.02) * u(1, channels * channels).view(channels, channels)
        g[0].weight.copy_(weight[:, :, None, None])
        g[1].weight.copy_(1 + torch.tensor(0.1) * u(2, channels))
        g[1].bias.copy_(torch.tensor(0.1) * u(3, channels))
    return g.to(dtype)


def network(model, site, dtype, relu=None):
    """f of pixels and the graph behind it."""
    net = npd_torch.Graph(model, site)
    net.constants = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net.constants.items()}
    if relu:
        net.nodes = [(relu if op is npd_torch.OPS["Relu"] else op, *rest) for op, *rest in net.nodes]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(dtype) for v in npd_torch.PRESETS["cifar10"])
    return net, lambda pixels: net((pixels - mean) / std)


def site_statistics(model, site, x):
    """Running mean and variance of the site's values over x, float32 rounded from float64."""
    net, f = network(model, site, torch.float32)
    seen = []
    net.polarizer = lambda v: (seen.append(v.double()), v)[1]
    with torch.no_grad():
        f(x)
    v = seen[0].transpose(0, 1).flatten(1)
    return v.mean(1).float(), v.var(1).float()


class LeaningRelu(torch.autograd.Function):
    """Relu whose slope changes at `lean` standard deviations instead of 0."""

    @staticmethod
    def forward(ctx, v, lean):
        ctx.save_for_backward(v > lean * v.std())
        return v.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


def sure(model, site, x, labels, running, t, deltas):
    """Indices of the images whose gradients do not hang on rounding.

    Two things let float32 results of right programs differ by far more than 1e-4. Where a wrong class has nearly
    all the probability, 1 - p has few digits left. And a Relu's input within rounding of 0 has slope 0 or 1 by
    chance: a millionth of a standard deviation either way must not move the image's gradient.
    """
    def polarized(dtype, relu=None):
        net, f = network(model, site, dtype, relu)
        net.polarizer = layer(len(running[0]), dtype).eval()
        net.polarizer[1].running_mean.copy_(running[0])
        net.polarizer[1].running_var.copy_(running[1])
        return f

    f = polarized(torch.float32)
    keep = torch.ones(len(x), dtype=torch.bool)
    with torch.no_grad():
        for delta in deltas:
            keep &= F.softmax(f((x + delta).clamp(0, 1)), 1).scatter(1, labels[:, None], 0.0).amax(1) < 0.99
    index = keep.nonzero()[:, 0]
    for delta in deltas[:2]:
        grads = []
        for lean in (0.0, 1e-6, -1e-6):
            f = polarized(torch.float64, lambda a, v, lean=lean: LeaningRelu.apply(v, lean))
            d = delta[index].double().requires_grad_(True)
            loss = F.cross_entropy(f(npd_torch.Clip.apply(x[index].double() + d)), t[index], reduction="sum")
            grads.append(torch.autograd.grad(loss, d)[0].flatten(1))
        apart = torch.stack([(g - grads[0]).abs().amax(1) for g in grads[1:]]).amax(0)
        index = index[apart <= 2e-5 * grads[0].abs().amax(1)]
    return index


def gradients(model, site, x, labels, running, dtype, given=None):
    """Everything for one model and batch. `given` supplies delta, t and original of another run."""
    net, f = network(model, site, dtype)
    x = x.to(dtype)
    g = layer(len(running[0]), dtype)
    g[1].running_mean.copy_(running[0])
    g[1].running_var.copy_(running[1])
    net.polarizer = g
    names = ("conv.weight", "bn.weight", "bn.bias")
    parameters = [g[0].weight, g[1].weight, g[1].bias]
    out = {}

    g.train()
    z = f(x)
    loss = F.cross_entropy(z, labels)
    for name, grad in zip(names, torch.autograd.grad(loss, parameters)):
        out[f"warmup.{name}"] = grad.flatten()
    out["warmup.loss"], out["warmup.logits"] = loss, z.detach()
    out["warmup.running_mean"], out["warmup.running_var"] = g[1].running_mean.clone(), g[1].running_var.clone()
    g[1].running_mean.copy_(running[0])
    g[1].running_var.copy_(running[1])

    g.eval()
    with torch.no_grad():
        z = f(x)
    out["logits"] = z
    original, t = (given[k] if given else v for k, v in
                   (("original", z.argmax(1)), ("t", z.scatter(1, labels[:, None], -10.0).argmax(1))))
    out["original"], out["t"] = original, t
    delta, norms, signs = torch.zeros_like(x), [], []
    for step in range(2):
        if given:
            delta = given["deltas"][step].to(dtype)
        delta.requires_grad_(True)
        ce = F.cross_entropy(f(npd_torch.Clip.apply(x + delta)), t, reduction="none")
        grad, = torch.autograd.grad(ce.clamp(-80, 80).mean(), delta)
        out[f"inner{step + 1}"] = grad.flatten(1)
        out.setdefault("deltas", []).append(delta.detach())
        with torch.no_grad():
            delta = delta - STEP * grad.sign()
            norm = delta.flatten(1).norm(dim=1)
            wide = norm[:, None, None, None]
            delta = torch.where(wide > RHO, delta * RHO / wide, delta)
        norms.append(norm)
        signs.append(grad.sign())
    if given:
        delta = given["deltas"][2].to(dtype)
    out["deltas"].append(delta)
    out["norms"] = torch.stack(norms, 1)
    out["signs"] = (3 * (signs[0] + 1) + signs[1] + 1).byte()

    adversarial = (x + delta).clamp(0, 1)
    l1 = F.cross_entropy(f(x), labels)
    za = f(adversarial)
    l2 = F.cross_entropy(za, original)
    prob = F.softmax(za, 1)
    top = prob.argsort(1)[:, -2:]
    w = torch.where(top[:, 1] == labels, top[:, 0], top[:, 1])
    log_not = torch.log(1.0001 - prob + 1e-12)
    l3, l4 = F.nll_loss(log_not, w), F.nll_loss(log_not, t)
    loss = sum(a * b for a, b in zip(LAMBDAS, (l1, l2, l3, l4)))
    for name, grad in zip(names, torch.autograd.grad(loss, parameters)):
        out[f"bilevel.{name}"] = grad.flatten()
    out["adversarial"], out["w"] = za.detach(), w
    for name, value in (("l1", l1), ("l2", l2), ("l3", l3), ("l4", l4), ("loss", loss)):
        out[f"bilevel.{name}"] = value
    return out


def replay(signs, norms):
    """delta1 and delta2 as the docstring says that they are to be made."""
    s1, s2 = (signs // 3).float() - 1, (signs % 3).float() - 1
    step, rho = torch.tensor(STEP), torch.tensor(RHO)
    deltas, d = [], torch.zeros_like(s1)
    for k, s in enumerate((s1, s2)):
        d, n = d - step * s, norms[:, k, None, None, None]
        d = torch.where(n > rho, d * rho / n, d)
        deltas.append(d)
    return deltas


def write_gradients(name, model, site, folder, shown, count, entries, pixels):
    mean, std = npd_torch.PRESETS["cifar10"]
    x, labels, files = first_images(folder, CANDIDATES)
    running = site_statistics(model, site, x)
    every = gradients(model, site, x, labels, running, torch.float32)
    chosen = sure(model, site, x, labels, running, every["t"], every["deltas"])[:count]
    print(name, f"{len(chosen)} images, the last is number {int(chosen[-1]) + 1} of {CANDIDATES}")
    x, labels, files = x[chosen], labels[chosen], [files[i] for i in chosen.tolist()]
    single = gradients(model, site, x, labels, running, torch.float32)
    double = gradients(model, site, x, labels, running, torch.float64, single)
    assert all(torch.equal(a, b) for a, b in zip(replay(single["signs"], single["norms"]), single["deltas"][1:]))

    def share(key, per_image=False):
        a, b = single[key].double(), double[key]
        if not per_image:
            return ((a - b).abs().max() / b.abs().max()).item()
        worst = (a - b).abs().amax(1) / b.abs().amax(1)
        return worst[b.norm(dim=1) >= 1e-6].max().item()

    tensors = {"running_mean": running[0], "running_var": running[1], "labels": labels}
    for key in ("t", "original", "w", "logits", "adversarial", "warmup.logits", "warmup.running_mean",
                "warmup.running_var", "signs", "norms"):
        tensors[key] = single[key]
    differences = {}
    for phase in ("warmup", "bilevel"):
        for part in ("conv.weight", "bn.weight", "bn.bias"):
            key = f"{phase}.{part}"
            grad = single[key]
            tensors[f"{key}.norm"], tensors[f"{key}.max"] = grad.norm()[None], grad.abs().max()[None]
            if entries and len(grad) > entries:
                # the largest entry is among them: a relative error is meant against it
                index = torch.cat([grad.abs().argmax()[None], torch.linspace(0, len(grad) - 1, entries - 1).long()])
                tensors[f"{key}.index"], grad = index, grad[index]
            tensors[f"{key}.value"] = grad
            differences[key] = share(key)
    for key in ("inner1", "inner2"):
        grad = single[key]
        index = torch.linspace(0, grad.shape[1] - 1, pixels).long()
        tensors[f"{key}.index"], tensors[f"{key}.value"] = index, grad[:, index]
        tensors[f"{key}.norm"], tensors[f"{key}.max"] = grad.norm(dim=1), grad.abs().amax(1)
        differences[key] = share(key, True)
    for key in ("logits", "adversarial", "warmup.logits"):
        differences[key] = share(key)
    scalars = {k: single[k].item() for k in ("warmup.loss", *(f"bilevel.{p}" for p in ("l1", "l2", "l3", "l4", "loss")))}
    text = {"model": shown, "sha256": hashlib.sha256(pathlib.Path(model).read_bytes()).hexdigest(), "site": site,
            "folder": str(pathlib.Path(shown).parent.parent / "images/clean") if "shared" in shown else "fixtures/images/clean",
            "files": files, "mean": mean, "std": std, "batch": len(files), "channels": len(running[0]),
            "rho": RHO, "inner_step": STEP, "lambdas": LAMBDAS, **scalars,
            "float64": {k: float(f"{v:.2e}") for k, v in differences.items()}, "torch": torch.__version__}
    (VECTORS / f"gradients-{name}.json").write_text(json.dumps(text, indent=1) + "\n")
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_safetensors(VECTORS / f"gradients-{name}.safetensors", tensors)
    print(name, json.dumps(text["float64"]), json.dumps(scalars))
    answered = (single["adversarial"].argmax(1) == single["t"]).float().mean()
    print(name, f"answered t at delta2: {100 * answered:.0f} %, signs of 0: {(single['signs'] == 4).float().mean():.4f}")


# ---------------------------------------------------------------- the update rule
def write_update_rule():
    size, steps = 48, 4
    p = nn.Parameter(u(11, size).clone())
    opt = torch.optim.SGD([p], lr=0.01, momentum=0.9, weight_decay=5e-4)
    after = []
    for s in range(steps):
        p.grad = u(12 + s, size).clone()
        opt.step()
        after.append(p.detach().tolist())
    sgd = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "size": size, "steps": steps, "after": after}

    shape, density = (4, 3, 32, 32), [1.0, 0.5, -0.99, -1.0]
    delta = torch.zeros(shape)
    sums, first = [], []
    for s in range(2):
        e = delta.numel()
        keep = u(30 + s, e).view(shape) <= torch.tensor(density).view(-1, 1, 1, 1)
        grad = torch.where(keep, u(20 + s, e).view(shape), torch.tensor(0.0))
        delta = delta - STEP * grad.sign()
        norm = delta.flatten(1).norm(dim=1)[:, None, None, None]
        delta = torch.where(norm > RHO, delta * RHO / norm, delta)
        d = delta.flatten(1).double()
        sums.append([[row.norm().item(), row.sum().item(), (row * row).sum().item()] for row in d])
        first.append(delta.flatten(1)[:, :64].tolist())
    ball = {"rho": RHO, "step": STEP, "shape": shape, "density": density, "steps": 2, "sums": sums, "first": first}

    stop = []
    for answers in ([1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [2, 1, 1, 1, 2, 2]):
        t = [1] * len(answers)
        reached = (torch.tensor(answers) == torch.tensor(t)).float().mean().item()
        stop.append({"answers": answers, "t": t, "stop": reached > 0.6})
    (VECTORS / "update_rule.json").write_text(json.dumps({"sgd": sgd, "ball": ball, "stop": stop}) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shared", type=pathlib.Path, help="folder with models/preactresnet18-badnets.onnx and images/clean")
    args = p.parse_args()
    torch.set_num_threads(1)
    VECTORS.mkdir(exist_ok=True)
    site = "/layer4/layer4.1/conv1/Conv"
    write_update_rule()
    write_gradients("fixture", ROOT / "fixtures/model.onnx", site, ROOT / "fixtures/images/clean",
                    "fixtures/model.onnx", 32, 0, 128)
    if args.shared:
        write_gradients("preactresnet18", args.shared / "models/preactresnet18-badnets.onnx", site,
                        args.shared / "images/clean", "../shared/models/preactresnet18-badnets.onnx", 32, 512, 128)


if __name__ == "__main__":
    main()
