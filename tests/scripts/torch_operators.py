"""Writes tests/vectors/torch_operators.json: what PyTorch gives for operators whose sums may be taken in many ways, or
that have several outputs, and the gradient with respect to the input. tests/gradients_against_pytorch.rs holds ours
against it.

In float64, so that the numbers are right to the last digit of float32. Needs torch, numpy.
Run: python tests/scripts/torch_operators.py
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

rng = np.random.default_rng(20)
cases = []


def numbers(t):
    """Nine digits say which float32 number it is."""
    return [float(f"{v:.9g}") for v in t.detach().float().flatten().tolist()]


def uniform(*shape):
    return torch.from_numpy(rng.uniform(-2, 2, shape).astype(np.float32))


def case(name, op, opset, attributes, x, function, constants=()):
    """One operator: its outputs, and the gradient of the sum of each output's elements times 1, -2, 3, -4 ..."""
    exact = x.double().requires_grad_()
    outputs = function(exact, *(c.double() if c.is_floating_point() else c for c in constants))
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    loss = 0.0
    for y in outputs:
        count = torch.arange(1, y.numel() + 1, dtype=torch.float64)
        loss = loss + (y.flatten() * count * torch.where(count % 2 == 1, 1.0, -1.0)).sum()
    (dx,) = torch.autograd.grad(loss, exact)
    given = [{"shape": list(c.shape), "values": numbers(c), "integers": not c.is_floating_point()} for c in constants]
    cases.append({
        "name": name, "op": op, "opset": opset, "attributes": attributes, "constants": given,
        "x": {"shape": list(x.shape), "values": numbers(x)},
        "outputs": [{"shape": list(y.shape), "values": numbers(y)} for y in outputs], "dx": numbers(dx),
    })


def norm(name, x, axis, bias=True, epsilon=1e-5):
    shape = tuple(x.shape[axis:])
    constants = [uniform(*shape)] + ([uniform(*shape)] if bias else [])
    case(name, "LayerNormalization", 17, {"axis": axis, "epsilon": epsilon}, x,
         lambda x, w, b=None: F.layer_norm(x, shape, w, b, epsilon), constants)


norm("layer_norm_vectors", uniform(3, 10), -1)
norm("layer_norm_tokens", uniform(2, 3, 8), -1, bias=False, epsilon=1e-6)
norm("layer_norm_channels_last", uniform(2, 2, 3, 5), 3)
norm("layer_norm_whole_images", uniform(2, 3, 2, 4), 1)
norm("layer_norm_planes", uniform(2, 3, 2, 4), 2)
norm("layer_norm_long_rows", uniform(2, 70), 1)
norm("layer_norm_far_from_zero", uniform(2, 12) + 1000, -1)
norm("layer_norm_hardly_any_spread", uniform(2, 12) * 1e-3, -1)
norm("layer_norm_equal_numbers", torch.full((2, 6), 3.0), -1)

image, tokens = uniform(2, 4, 2, 3), uniform(2, 7, 3)
case("split_equal", "Split", 7, {"axis": 1}, image, lambda x: x.split(2, 1))
case("split_attribute", "Split", 11, {"axis": 1, "split": [1, 3]}, image, lambda x: x.split([1, 3], 1))
case("split_input", "Split", 13, {"axis": -2}, tokens, lambda x, s: x.split(s.tolist(), -2), [torch.tensor([2, 4, 1])])
case("split_smaller_last", "Split", 18, {"axis": 1, "num_outputs": 3}, tokens, lambda x: x.split(3, 1))

image, factors = uniform(2, 4, 3, 5), [uniform(4), uniform(4)]
case("group_norm", "GroupNormalization", 21, {"num_groups": 2}, image, lambda x, w, b: F.group_norm(x, 2, w, b), factors)
case("instance_norm", "InstanceNormalization", 22, {}, image, lambda x, w, b: F.instance_norm(x, weight=w, bias=b), factors)
case("rms_norm", "RMSNormalization", 23, {}, tokens, lambda x, w: F.rms_norm(x, (3,), w, 1e-5), [uniform(3)])
lrn = {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 1.5}
case("local_response_norm", "LRN", 13, lrn, image, lambda x: F.local_response_norm(x, 3, 0.2, 0.6, 1.5))


def resize(name, x, size, mode, coordinates, options=None, **more):
    """By sizes; `more`: further arguments of PyTorch's function."""
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, **(options or {})}
    torchs = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[mode]
    sizes = torch.tensor([*x.shape[:2], *size])
    nothing = torch.empty(0)
    case(name, "Resize", 19, attributes, x,
         lambda x, roi, scales, sizes: F.interpolate(x, tuple(size), mode=torchs, **more), [nothing, nothing, sizes])


for size in ([6, 10], [7, 9], [2, 3]):
    named = "x".join(map(str, size))
    resize(f"nearest_{named}", image, size, "nearest", "asymmetric", {"nearest_mode": "floor"})
    for mode in ("linear", "cubic"):
        resize(f"{mode}_{named}", image, size, mode, "pytorch_half_pixel")
        resize(f"{mode}_corners_{named}", image, size, mode, "align_corners", align_corners=True)

transposed = [uniform(4, 3, 3, 2), uniform(3)]
window = {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 2], "dilations": [1, 2]}
case("conv_transpose", "ConvTranspose", 11, window, image,
     lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 2), 1, (1, 2)), transposed)
case("conv_transpose_grouped", "ConvTranspose", 11, {"group": 2, "strides": [2, 2]}, image,
     lambda x, w: F.conv_transpose2d(x, w, None, 2, groups=2), [uniform(4, 3, 2, 2)])
case("conv_of_lines", "Conv", 11, {"strides": [2], "pads": [1, 1], "kernel_shape": [3]}, uniform(2, 3, 9),
     lambda x, w, b: F.conv1d(x, w, b, 2, 1), [uniform(4, 3, 3), uniform(4)])
case("einsum", "Einsum", 12, {"equation": "bhid,hjd->bijh"}, uniform(2, 3, 4, 5),
     lambda x, y: torch.einsum("bhid,hjd->bijh", x, y), [uniform(3, 6, 5)])
keys = [uniform(2, 3, 6, 5), uniform(2, 3, 6, 4), uniform(4, 6)]
case("attention", "Attention", 23, {}, uniform(2, 3, 4, 5),
     lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask), keys)
case("attention_causal", "Attention", 23, {"is_causal": 1, "scale": 0.5}, uniform(2, 3, 4, 5),
     lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5), keys[:2])
pixels = {"blocksize": 2, "mode": "CRD"}
case("pixel_shuffle", "DepthToSpace", 13, pixels, image, lambda x: F.pixel_shuffle(x, 2))
case("mish", "Mish", 18, {}, image, F.mish)

out = Path(__file__).parent.parent / "vectors" / "torch_operators.json"
lines = ",\n".join(json.dumps(c) for c in cases)
out.write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{lines}\n]}}\n')
print(f"{len(cases)} cases, {out.stat().st_size} bytes")
