"""Writes tests/vectors/torch_ties.json: what PyTorch answers, and which gradients it gives, where there is no
derivative: pools over equal numbers and at edges, ReLU and its kin at 0, clamp at its bounds, hardsigmoid and hardswish
at their knees, the largest of equal numbers, norms of zeros. tests/ties.rs holds the operators against it.

Needs torch 2.14 or newer, which gives clamp the slope 0 at its bounds. Run: python tests/scripts/torch_ties.py
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

cases = []


def case(name, op, opset, attributes, x, function, inputs=()):
    """One operator on one input: the output, and the gradient of the sum of output times 1, 2, 3 ..."""
    x = torch.as_tensor(x, dtype=torch.float32).clone().requires_grad_()
    y = function(x)
    dy = torch.arange(1, y.numel() + 1, dtype=torch.float32).reshape(y.shape)
    (dx,) = torch.autograd.grad((y * dy).sum(), x)
    cases.append({
        "name": name, "op": op, "opset": opset, "attributes": attributes, "inputs": list(inputs),
        "x_shape": list(x.shape), "x": x.flatten().tolist(),
        "y_shape": list(y.shape), "y": y.detach().flatten().tolist(), "dx": dx.flatten().tolist(),
    })


def near(*points):
    """The points, and the float32 numbers next to them."""
    out = []
    for p in points:
        t = torch.tensor(p, dtype=torch.float32)
        out += [torch.nextafter(t, torch.tensor(-math.inf)).item(), t.item(), torch.nextafter(t, torch.tensor(math.inf)).item()]
    return out


case("relu", "Relu", 14, {}, near(0.0) + [-0.0, -2.0, 2.0], F.relu)
case("leaky_relu", "LeakyRelu", 16, {"alpha": 0.25}, near(0.0) + [-0.0, -2.0, 2.0], lambda x: F.leaky_relu(x, 0.25))
case("elu", "Elu", 22, {"alpha": 1.5}, near(0.0) + [-2.0, 2.0], lambda x: F.elu(x, 1.5))
case("abs", "Abs", 13, {}, near(0.0) + [-0.0, -2.0, 2.0], torch.abs)
case("clip", "Clip", 13, {}, near(0.0, 6.0, -1.0), lambda x: x.clamp(0.0, 6.0), [0.0, 6.0])
case("clip_attributes", "Clip", 7, {"min": -1.0, "max": 1.0}, near(-1.0, 1.0), lambda x: x.clamp(-1.0, 1.0))
case("clip_low", "Clip", 13, {}, near(0.5), lambda x: x.clamp(min=0.5), [0.5])
case("clip_point", "Clip", 13, {}, near(0.5), lambda x: x.clamp(0.5, 0.5), [0.5, 0.5])
case("clip_crossed", "Clip", 13, {}, near(1.0, 2.0) + [1.5], lambda x: x.clamp(2.0, 1.0), [2.0, 1.0])
third = torch.tensor(1 / 6, dtype=torch.float32).item()
case("hard_sigmoid", "HardSigmoid", 20, {"alpha": third, "beta": 0.5}, near(-3.0, 3.0, 0.0), F.hardsigmoid)
case("hard_swish", "HardSwish", 14, {}, near(-3.0, 3.0, 0.0), F.hardswish)

case("prelu", "PRelu", 16, {}, near(0.0) + [-0.0, -2.0, 2.0], lambda x: F.prelu(x, torch.tensor([0.3])), [0.3])
case("selu", "Selu", 22, {}, near(0.0) + [-2.0, 2.0], F.selu)
case("celu", "Celu", 12, {"alpha": 1.5}, near(0.0) + [-2.0, 2.0], lambda x: F.celu(x, 1.5))
case("thresholded_relu", "ThresholdedRelu", 10, {"alpha": 0.5}, near(0.5), lambda x: F.threshold(x, 0.5, 0.0))
case("softsign", "Softsign", 22, {}, near(0.0) + [-2.0, 2.0], F.softsign)
case("maximum", "Max", 13, {}, near(0.5) + [-2.0], lambda x: torch.maximum(x, torch.tensor(0.5)), [0.5])
case("minimum", "Min", 13, {}, near(0.5) + [-2.0], lambda x: torch.minimum(x, torch.tensor(0.5)), [0.5])
case("fmod", "Mod", 13, {"fmod": 1}, [-4.0, -2.5, -2.0, 0.0, 1.5, 2.0, 4.0], lambda x: x.fmod(2.0), [2.0])
equal = [[1.0, 2.0, 2.0], [-1.0, -1.0, -1.0], [0.0, 3.0, 0.0]]
case("reduce_max", "ReduceMax", 13, {"axes": [1]}, equal, lambda x: x.amax(1, keepdim=True))
case("reduce_min", "ReduceMin", 13, {"axes": [0]}, equal, lambda x: x.amin(0, keepdim=True))
case("reduce_prod", "ReduceProd", 13, {"axes": [1]}, equal, lambda x: x.prod(1, keepdim=True))
case("reduce_l1", "ReduceL1", 13, {"axes": [1]}, equal, lambda x: x.abs().sum(1, keepdim=True))
case("reduce_l2", "ReduceL2", 13, {"axes": [1]}, [[0.0, 0.0], [3.0, -4.0]], lambda x: x.norm(2, 1, keepdim=True))
case("reduce_log_sum_exp", "ReduceLogSumExp", 13, {"axes": [1]}, equal, lambda x: x.logsumexp(1, keepdim=True))

generator = torch.Generator().manual_seed(9)


def few(*shape):
    """Images with few different values, so that most windows hold equal maxima."""
    return torch.randint(-1, 2, shape, generator=generator).float()


def numbers(*shape):
    return torch.randn(*shape, generator=generator)


def max_pool(name, x, kernel, stride, pads, dilation=(1, 1), ceil=False):
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": [*pads, *pads], "dilations": dilation, "ceil_mode": int(ceil)}
    case(name, "MaxPool", 12, attributes, x, lambda x: F.max_pool2d(x, kernel, stride, pads, dilation, ceil))


def average_pool(name, x, kernel, stride, pads, ceil=False, count=False):
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": [*pads, *pads], "ceil_mode": int(ceil), "count_include_pad": int(count)}
    case(name, "AveragePool", 19, attributes, x, lambda x: F.avg_pool2d(x, kernel, stride, pads, ceil, count))


max_pool("max_pool_equal", torch.zeros(1, 1, 4, 4), (2, 2), (2, 2), (0, 0))
max_pool("max_pool_overlapping", few(2, 2, 5, 5), (3, 3), (1, 1), (1, 1))
max_pool("max_pool_negative_border", few(1, 2, 4, 5) - 5, (3, 3), (2, 2), (1, 1))
max_pool("max_pool_remainder", few(1, 2, 5, 7), (2, 2), (2, 2), (0, 0))
max_pool("max_pool_ceil", few(1, 2, 5, 7), (3, 2), (2, 3), (1, 0), ceil=True)
max_pool("max_pool_ceil_starts_in_padding", few(1, 1, 6, 6), (2, 2), (3, 3), (1, 1), ceil=True)
max_pool("max_pool_dilated", few(1, 2, 7, 7), (2, 3), (2, 1), (1, 1), dilation=(3, 2))
max_pool("max_pool_stem", few(1, 2, 9, 9), (3, 3), (2, 2), (1, 1))
for count in (False, True):
    suffix = "_counted" if count else ""
    average_pool("average_pool_remainder" + suffix, numbers(1, 2, 5, 7), (2, 2), (2, 2), (0, 0), count=count)
    average_pool("average_pool_padded" + suffix, numbers(2, 2, 5, 5), (3, 3), (1, 1), (1, 1), count=count)
    average_pool("average_pool_ceil" + suffix, numbers(1, 2, 5, 6), (3, 3), (2, 2), (1, 1), ceil=True, count=count)
    average_pool("average_pool_ceil_hanging" + suffix, numbers(1, 1, 6, 6), (3, 3), (2, 2), (0, 0), ceil=True, count=count)
    average_pool("average_pool_ceil_starts_in_padding" + suffix, numbers(1, 1, 6, 6), (2, 2), (3, 3), (1, 1), ceil=True, count=count)
    average_pool("average_pool_uneven" + suffix, numbers(1, 2, 6, 5), (4, 2), (3, 1), (2, 1), count=count)
case("global_max", "GlobalMaxPool", 7, {}, few(2, 2, 3, 3), lambda x: F.max_pool2d(x, 3))
case("global_average", "GlobalAveragePool", 7, {}, numbers(2, 2, 3, 4), lambda x: x.mean((2, 3), keepdim=True))

out = Path(__file__).parent.parent / "vectors" / "torch_ties.json"
lines = ",\n".join(json.dumps(c) for c in cases)
out.write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{lines}\n]}}\n')
print(f"{len(cases)} cases, {out.stat().st_size} bytes")
