#!/usr/bin/env python3
"""What a layer at a site can do at most: trained on clean images and on truly triggered ones, labels kept.

    benches/oracle.py MODEL.onnx --list                                   the cuts of the file
    benches/oracle.py MODEL.onnx --values NAME ... --attack chequered --images DIR [--axis 1] [--epochs 10] [--seed 0]

A value is a cut where every way from the input to the scores passes through it; others are refused. The layer is a 1x1
convolution (without BatchNorm, which a convolution can take in) along --axis: by default 1 of four dimensions, the last
of three. DIR holds clean, test and triggered-ATTACK as `backdoored.py images` writes them; --attack is one of
`backdoored.py` or `examples/backdoors.py`, put on the clean images for the training. Prints for every value ACC, ASR
and RA before and after, the share of the multiplications that lie behind it, and the floor of ASR: how many test images
of other classes the original answers so without a trigger. What a recipe that does not know the trigger leaves beyond
this, its search for triggers leaves to be found.
Needs torch, onnx, onnxruntime, onnx2torch, pillow. One thread.
"""
import argparse
import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from PIL import Image
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
import backdoors  # noqa: E402
import backdoored  # noqa: E402
from backdoors import CLASSES, MEAN, STD, as_bytes  # noqa: E402


# ------------------------------------------------------------------------------------------------ the graph
class Cuttable:
    """A file whose initializers are all spelled out, with every value's shape for one image."""

    def __init__(self, path):
        self.model = onnx.load(path)
        graph = self.model.graph
        held = {t.name: t for t in graph.initializer}
        # exporters write equal weights once and Identity nodes for the rest
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in held:
                held[node.output[0]] = onnx.TensorProto()
                held[node.output[0]].CopyFrom(held[node.input[0]])
                held[node.output[0]].name = node.output[0]
        self.nodes = [n for n in graph.node if not (n.op_type == "Identity" and n.output[0] in held)]
        self.held, self.input, self.output = held, graph.input[0].name, graph.output[0].name
        self.shapes = {self.input: [1] + [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:]]}
        self.shapes |= self.run_all()

    def run_all(self):
        """Shapes of all values that a run for one image makes."""
        everything = [o for n in self.nodes for o in n.output if o]
        session = opened(self.part(self.nodes, [self.input], everything))
        made = session.run(everything, {self.input: np.zeros(self.shapes[self.input], np.float32)})
        return {k: list(np.shape(v)) for k, v in zip(everything, made)}

    def part(self, nodes, inputs, outputs):
        """A model of some of the nodes, for any number of images."""
        used = {i for n in nodes for i in n.input}
        given = [helper.make_tensor_value_info(i, 1, [None, *self.shapes[i][1:]]) for i in inputs]
        made = [helper.make_empty_tensor_value_info(o) for o in outputs]
        graph = helper.make_graph(nodes, "part", given, made, [t for k, t in self.held.items() if k in used])
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def leading_to(self, wanted, stop):
        """The nodes that make a value, in order, from those in `stop` and the file's weights."""
        maker, needed, kept = {o: n for n in self.nodes for o in n.output}, [wanted], {}
        while needed:
            name = needed.pop()
            if name in stop or name in self.held or not name:
                continue
            if name == self.input:
                raise SystemExit(f"{stop} is no cut: there is a way past it")
            node = maker[name]
            if id(node) not in kept:
                kept[id(node)] = node
                needed.extend(node.input)
        return [n for n in self.nodes if id(n) in kept]

    def cuts(self):
        for node in self.nodes:
            for value in node.output:
                reached = {self.input} - {value}
                for n in self.nodes:
                    if reached & set(n.input):
                        reached |= set(n.output) - {value}
                if self.output not in reached and value != self.output:
                    yield node, value

    def multiplications(self, nodes):
        total = 0
        for n in nodes:
            if n.op_type in ("Conv", "Gemm", "MatMul"):
                inside = self.shapes[n.input[0]][-1]
                if n.op_type == "Conv":
                    inside = int(np.prod(self.held[n.input[1]].dims[1:]))
                total += int(np.prod(self.shapes[n.output[0]])) * inside
        return total

    def share_behind(self, value):
        return self.multiplications(self.leading_to(self.output, {value})) / self.multiplications(self.nodes)

    def before(self, value):
        return opened(self.part(self.leading_to(value, {self.input}), [self.input], [value]))

    def behind(self, value):
        import onnx2torch
        part = self.part(self.leading_to(self.output, {value}), [value], [self.output])
        part.graph.output[0].CopyFrom(helper.make_tensor_value_info(self.output, 1, [None, None]))
        net = onnx2torch.convert(part).eval()
        return net.requires_grad_(False)


def opened(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------------------ images
def read(folder):
    """(N, 3, H, W) in [0, 1] and classes."""
    files = sorted(folder.glob("*/*.png"))
    x = np.stack([np.asarray(Image.open(p).convert("RGB"), np.float32) / 255 for p in files])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.tensor([CLASSES.index(p.parent.name) for p in files])


def values(session, x):
    x = ((x - MEAN) / STD).numpy()
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.concatenate([session.run(None, {name: x[i:i + 250]})[0] for i in range(0, len(x), 250)]))


# ------------------------------------------------------------------------------------------------ the layer
class Layer(nn.Module):
    """A map of the channels, the identity at first."""

    def __init__(self, channels, axis):
        super().__init__()
        self.axis, self.map = axis, nn.Linear(channels, channels)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(channels)), self.map.bias.zero_()

    def forward(self, v):
        return self.map(v.movedim(self.axis, -1)).movedim(-1, self.axis)


def trained(layer, behind, clean, stamped, labels, epochs):
    """`clean` and `stamped`: values at the cut; `labels` of both, and which of the stamped ones count."""
    y, others = labels
    with torch.no_grad():
        original = torch.cat([behind(b) for b in clean.split(250)])
    steps = len(clean) // 128
    optimiser = torch.optim.Adam(layer.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * steps + 1, pct_start=0.1)
    for _ in range(epochs):
        for i in torch.randperm(len(clean))[:steps * 128].split(128):
            j = others[torch.randint(0, len(others), (128,))]
            kept, cured = behind(layer(clean[i])), behind(layer(stamped[j]))
            drift = F.kl_div(kept.log_softmax(1), original[i].log_softmax(1), log_target=True, reduction="batchmean")
            loss = F.cross_entropy(kept, y[i]) + F.cross_entropy(cured, y[j]) + 4 * drift
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def measures(behind, layer, test, triggered, attack):
    (vt, yt), (vb, yb) = test, triggered
    t, b = (torch.cat([behind(layer(part)) for part in v.split(250)]).argmax(1) for v in (vt, vb))
    share = lambda right: f"{100 * right.float().mean().item():.1f}"
    return " / ".join((share(t == yt), share(b == attack.label(yb)), share(b == yb)))


def one(net, value, args, attack, sets):
    torch.manual_seed(args.seed)
    began, before, behind = time.monotonic(), net.before(value), net.behind(value)
    (x, y), (xt, yt), (xb, yb) = sets
    stamped = as_bytes(attack.stamp(x, torch.Generator().manual_seed(args.seed))).clamp(0, 1)
    shape = net.shapes[value]
    axis = args.axis if args.axis is not None else 1 if len(shape) in (2, 4) else len(shape) - 1
    clean, dirty, test, triggered = (values(before, images) for images in (x, stamped, xt, xb))
    layer = Layer(shape[axis], axis)
    was = measures(behind, nn.Identity(), (test, yt), (triggered, yb), attack)
    trained(layer, behind, clean, dirty, (y, attack.eligible(y).nonzero()[:, 0]), args.epochs)
    now = measures(behind, layer, (test, yt), (triggered, yb), attack)
    others = attack.eligible(yt)
    floor = measures(behind, nn.Identity(), (test, yt), (test[others], yt[others]), attack).split(" / ")[1]
    print(f"| {value} | {'x'.join(map(str, shape[1:]))} | {100 * net.share_behind(value):.0f} % | {was} | {now} | {floor} | "
          f"{time.monotonic() - began:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--values", nargs="+", default=[])
    parser.add_argument("--attack", choices=[*backdoored.ATTACKS, *backdoors.ATTACKS])
    parser.add_argument("--images", type=pathlib.Path)
    parser.add_argument("--axis", type=int)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = Cuttable(args.model)
    if args.list:
        for node, value in net.cuts():
            shape = "x".join(map(str, net.shapes[value][1:]))
            print(f"{value:70} {shape:12} {100 * net.share_behind(value):3.0f} %  {node.op_type}")
        return
    attack = {**backdoors.ATTACKS, **backdoored.ATTACKS}[args.attack]()
    sets = [read(args.images / folder) for folder in ("clean", "test", f"triggered-{args.attack}")]
    print("| value | shape | behind it | ACC / ASR / RA before | after | floor | s |")
    print("| --- | --- | --- | --- | --- | --: | --: |")
    for value in args.values:
        one(net, value, args, attack, sets)


if __name__ == "__main__":
    main()
