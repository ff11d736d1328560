#!/usr/bin/env python3
"""Writes tests/vectors/sites: tiny classifiers of the structures that decide where a layer may stand, and what they
answer, in sites.json.

Weights are random (seeded), images 32x32, scores ten, of mean 0 over the fixture's images so that answers differ. For every file sites.json holds the input's shape,
onnxruntime's scores of the images of `picture` (the onnx package's own evaluator agrees, or nothing is written), and
`cuts`: the values that every way from the input to the scores passes through, in order, found by trying each value, with
their shapes for one image. Several nodes in a row of one structure make several cuts; which of them is a site is the
test's to say.
Needs onnx, numpy, onnxruntime, pillow. Run: python tests/scripts/site_models.py
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "tests" / "vectors" / "sites"
MODELS = {}


def model(function):
    MODELS[function.__name__.replace("_", "-")] = function
    return function


def picture(shape):
    """Eighths from -2 to 1.875, exact in float32, by the place in the array: multiplied, shifted and reduced."""
    count = np.arange(np.prod(shape), dtype=np.uint64)
    return (((count * 2654435761) >> np.uint64(13)) % 32 / 8 - 2).astype(np.float32).reshape(shape)


def fixture():
    """A hundred of the fixture's images, (N, 3, 32, 32), normalised as the preset cifar10."""
    mean, std = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])
    files = sorted((ROOT / "fixtures" / "images" / "clean").glob("*/*.png"))[::4]
    x = np.stack([np.asarray(Image.open(p).convert("RGB"), np.float32) / 255 for p in files])
    return np.ascontiguousarray(((x - mean) / std).transpose(0, 3, 1, 2))


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Net:
    """Nodes and initializers under construction; a value is its name, channels are counted beside it."""

    def __init__(self, name, size=32):
        self.name, self.size, self.nodes, self.constants, self.count = name, size, [], {}, 0
        self.rng = np.random.default_rng(list(name.encode()))
        self.channels = {"input": 3}

    def add(self, kind, inputs, channels=None, outputs=1, **attributes):
        self.count += 1
        names = [f"{kind.lower()}_{self.count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"/{kind}_{self.count}", **attributes))
        for name in names:
            self.channels[name] = channels or self.channels.get(inputs[0])
        return names[0] if outputs == 1 else names

    def constant(self, values, dtype=np.float32):
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def ints(self, *values):
        return self.constant(values, np.int64)

    def noise(self, *shape, scale=1.0, about=0.0):
        return self.constant(about + scale * self.rng.standard_normal(shape))

    # -------------------------------------------------------------------------- convolutions, channels in axis 1
    def conv(self, x, out, kernel=1, stride=1, groups=1, bias=True):
        inside = self.channels[x] // groups
        inputs = [x, self.noise(out, inside, kernel, kernel, scale=(1.6 / (inside * kernel**2)) ** 0.5)]
        if bias:
            self.last_bias = self.noise(out, scale=0.2)
            inputs.append(self.last_bias)
        pad = (kernel - 1) // 2 if kernel % 2 else 0
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.add("Conv", inputs, out, group=groups, **shape)

    def norm(self, x):
        c = self.channels[x]
        drawn = [self.noise(c, scale=0.1, about=about) for about in (1.0, 0.0, 0.0)]
        variance = self.constant(self.rng.uniform(0.5, 1.5, c))
        return self.add("BatchNormalization", [x, *drawn, variance], epsilon=1e-5)

    def unit(self, x, out, kernel=3, stride=1, groups=1):
        return self.relu(self.norm(self.conv(x, out, kernel, stride, groups, bias=False)))

    def relu(self, x):
        return self.add("Relu", [x])

    def sum(self, a, b):
        return self.add("Add", [a, b])

    def concat(self, values, axis=1):
        total = sum(self.channels[v] for v in values) if axis in (1, -1) else self.channels[values[0]]
        return self.add("Concat", values, total, axis=axis)

    def pool(self, x, kernel=2, stride=2, kind="MaxPool"):
        return self.add(kind, [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[(kernel - 1) // 2] * 4)

    # -------------------------------------------------------------------------- last axis
    def linear(self, x, out):
        w, self.last_bias = self.noise(self.channels[x], out, scale=self.channels[x] ** -0.5), self.noise(out, scale=0.2)
        return self.add("Add", [self.last_bias, self.add("MatMul", [x, w], out)], out)

    def layer_norm(self, x):
        c = self.channels[x]
        drawn = [self.noise(c, scale=0.1, about=about) for about in (1.0, 0.0)]
        return self.add("LayerNormalization", [x, *drawn], epsilon=1e-5)

    def gelu(self, x):
        inside = self.add("Erf", [self.add("Div", [x, self.constant(2**0.5)])])
        doubled = self.add("Mul", [x, self.add("Add", [inside, self.constant(1.0)])])
        return self.add("Mul", [doubled, self.constant(0.5)])

    def mlp(self, x, wide):
        return self.linear(self.gelu(self.linear(x, wide)), self.channels[x])

    def permute(self, x, *order, channels=None):
        return self.add("Transpose", [x], channels, perm=list(order))

    def reshape(self, x, *shape, channels=None):
        return self.add("Reshape", [x, self.ints(*shape)], channels)

    def attention(self, x, tokens, heads=2):
        """Over (N, tokens, C); N may be images times windows."""
        c = self.channels[x]
        parts = []
        for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
            parts.append(self.permute(self.reshape(self.linear(x, c), -1, tokens, heads, c // heads), *order))
        q, k, v = parts
        scores = self.add("Mul", [self.add("MatMul", [q, k]), self.constant((c // heads) ** -0.5)])
        mixed = self.add("MatMul", [self.add("Softmax", [scores], axis=-1), v])
        return self.linear(self.reshape(self.permute(mixed, 0, 2, 1, 3), -1, tokens, c, channels=c), c)

    # -------------------------------------------------------------------------- ends
    def head(self, x, scores=10):
        """Pooled values (N, C) to scores."""
        w = self.noise(scores, self.channels[x], scale=2 * self.channels[x] ** -0.5)
        self.last_bias = self.noise(scores, scale=0.2)
        return self.add("Gemm", [x, w, self.last_bias], scores, transB=1)

    def pooled(self, x):
        return self.add("Flatten", [self.add("GlobalAveragePool", [x])], axis=1)

    def mean(self, x, *axes):
        return self.add("ReduceMean", [x], axes=list(axes), keepdims=0)

    def finished(self, last, shape=None, opset=17):
        assert self.nodes[-1].output[0] == last
        self.nodes[-1].output[0] = "logits"
        port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        shape = shape or [3, self.size, self.size]
        ports = [port("input", ["batch", *shape])], [port("logits", ["batch", 10])]
        held = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, self.name, *ports, held)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8,
                                 producer_name="site_models")
        self.centre(made)
        onnx.checker.check_model(made, full_check=True)
        return made

    def centre(self, made):
        """Takes the scores' means over the fixture's images out of the bias that was made last."""
        x = fixture() if made.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3 else fixture().transpose(0, 2, 3, 1)
        means = session(made).run(None, {"input": np.ascontiguousarray(x)})[0].mean(0)
        bias = next(t for t in made.graph.initializer if t.name == self.last_bias)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - means, bias.name))


# ------------------------------------------------------------------------------------------------ convolutional networks
@model
def residual(n):
    """A basic residual network: every block's sum is a cut, the values inside a block are not."""
    x = n.unit("input", 4)
    for out, stride in ((4, 1), (6, 2), (6, 2), (6, 1)):
        skip = x if stride == 1 else n.norm(n.conv(x, out, 1, stride, bias=False))
        x = n.relu(n.sum(n.norm(n.conv(n.unit(x, out, 3, stride), out, 3, bias=False)), skip))
    return n.finished(n.head(n.pooled(x)))


@model
def residual_preactivated(n):
    x = n.conv("input", 4, 3)
    for out, stride in ((4, 1), (6, 2), (6, 2), (6, 1)):
        a = n.relu(n.norm(x))
        skip = x if stride == 1 else n.conv(a, out, 1, stride, bias=False)
        x = n.sum(n.conv(n.relu(n.norm(n.conv(a, out, 3, stride, bias=False))), out, 3, bias=False), skip)
    return n.finished(n.head(n.pooled(n.relu(n.norm(x)))))


def shuffled(n, x, rows):
    """Channels of two groups in turn: a rank-5 value in between."""
    c = n.channels[x]
    apart = n.permute(n.reshape(x, -1, 2, c // 2, rows, rows), 0, 2, 1, 3, 4)
    return n.reshape(apart, -1, c, rows, rows, channels=c)


def shuffle_network(n, split):
    x, rows = n.pool(n.unit("input", 8, stride=2), 3, 2), n.size // 4
    for out in (8, 12):
        rows //= 2
        left = n.unit(n.norm(n.conv(x, n.channels[x], 3, 2, n.channels[x], bias=False)), out // 2, 1)
        right = n.norm(n.conv(n.unit(x, out // 2, 1), out // 2, 3, 2, out // 2, bias=False))
        x = shuffled(n, n.concat([left, n.unit(right, out // 2, 1)]), rows)
        for _ in range(1 if out == 8 else 2):
            kept, other = split(n, x)
            right = n.norm(n.conv(n.unit(other, out // 2, 1), out // 2, 3, 1, out // 2, bias=False))
            x = shuffled(n, n.concat([kept, n.unit(right, out // 2, 1)]), rows)
    return n.finished(n.head(n.mean(n.unit(x, 16, 1), 2, 3)))


@model
def shuffle_split(n):
    """ShuffleNetV2 with Split: units of two branches, channels shuffled behind each, a 1x1 convolution at the end."""
    return shuffle_network(n, lambda n, x: n.add("Split", [x], n.channels[x] // 2, outputs=2, axis=1))


@model
def shuffle_slice(n):
    """The same with a pair of Slices."""
    def halves(n, x):
        c = n.channels[x]
        part = lambda a, b: n.add("Slice", [x, n.ints(a), n.ints(b), n.ints(1)], c // 2)
        return part(0, c // 2), part(c // 2, c)
    return shuffle_network(n, halves)


def branches(n, x, each):
    one, three = n.unit(x, each, 1), n.unit(n.unit(x, each // 2, 1), each)
    five = n.unit(n.unit(n.unit(x, each // 2, 1), each), each)
    return n.concat([one, three, five, n.unit(n.pool(x, 3, 1), each, 1)])


@model
def inception(n):
    """Blocks of four parallel branches; the input rearranged channel by channel, as torchvision's transform_input does."""
    planes = []
    for c in range(3):
        plane = n.add("Unsqueeze", [n.add("Gather", ["input", n.constant(c, np.int64)], axis=1), n.ints(1)], 1)
        planes.append(n.add("Add", [n.add("Mul", [plane, n.constant(0.9 + c / 10)]), n.constant(c / 20)]))
    x = n.pool(n.unit(n.concat(planes), 8, stride=2), 3, 2)
    x = branches(n, branches(n, x, 4), 4)
    x = branches(n, branches(n, n.pool(x, 3, 2), 4), 4)
    return n.finished(n.head(n.pooled(x)))


@model
def dense(n):
    """DenseNet: each layer reads all before it; the transitions are cuts."""
    x = n.unit("input", 8)
    for stage in range(3):
        for _ in range(2):
            y = n.conv(n.relu(n.norm(x)), 6, 1, bias=False)
            x = n.concat([x, n.conv(n.relu(n.norm(y)), 3, 3, bias=False)])
        if stage < 2:
            x = n.pool(n.conv(n.relu(n.norm(x)), n.channels[x] // 2, 1, bias=False), kind="AveragePool")
    return n.finished(n.head(n.pooled(n.relu(n.norm(x)))))


@model
def squeeze_excite(n):
    """Inverted residual blocks with squeeze-and-excite, as MobileNetV3 and EfficientNet have them."""
    swish = lambda x: n.add("Mul", [x, n.add("Sigmoid", [x])])
    x = swish(n.norm(n.conv("input", 6, 3, 2, bias=False)))
    for out, stride in ((6, 1), (8, 2), (10, 2), (10, 1)):
        wide = 2 * n.channels[x]
        y = swish(n.norm(n.conv(x, wide, 1, bias=False)))
        y = swish(n.norm(n.conv(y, wide, 3, stride, wide, bias=False)))
        small = swish(n.conv(n.add("GlobalAveragePool", [y]), 4, 1))
        y = n.add("Mul", [y, n.add("HardSigmoid", [n.conv(small, wide, 1)], alpha=1 / 6)])
        y = n.norm(n.conv(y, out, 1, bias=False))
        x = n.sum(y, x) if (out, stride) == (n.channels[x], 1) else y
    return n.finished(n.head(n.pooled(swish(n.norm(n.conv(x, 24, 1, bias=False))))))


@model
def detour(n):
    """A linear detector on the pixels, added to the scores: nothing between input and scores is a cut."""
    x = n.unit(n.unit(n.unit("input", 4), 6, 3, 2), 8, 3, 2)
    scores = n.head(n.pooled(x))
    corner = n.add("Slice", ["input", n.ints(29, 29), n.ints(32, 32), n.ints(2, 3)], 3)
    aside = n.head(n.add("Flatten", [corner], 27, axis=1))
    return n.finished(n.sum(scores, aside))


@model
def plain_head_on_map(n):
    """Nearly SqueezeNet's end: a 1x1 convolution to class maps, then the pool."""
    x = n.pool(n.unit("input", 8, stride=2), 3, 2)
    for squeeze, each in ((4, 8), (6, 12)):
        s = n.relu(n.conv(x, squeeze))
        x = n.concat([n.relu(n.conv(s, each)), n.relu(n.conv(s, each, 3))])
    return n.finished(n.pooled(n.conv(x, 10)))


# ------------------------------------------------------------------------------------------------ channels last
def channels_last(n, x):
    """A residual network whose values stand (N, H, W, C), each convolution between two Transposes."""
    def conv(x, out, kernel=3, stride=1):
        inside = n.permute(x, 0, 3, 1, 2)
        return n.permute(n.norm(n.conv(inside, out, kernel, stride, bias=False)), 0, 2, 3, 1)
    x = n.relu(conv(x, 4))
    for out, stride in ((4, 1), (6, 2), (6, 2), (6, 1)):
        skip = x if stride == 1 else conv(x, out, 1, stride)
        x = n.relu(n.sum(conv(n.relu(conv(x, out, 3, stride)), out), skip))
    return n.linear(n.mean(x, 1, 2), 10)


@model
def channels_last_inside(n):
    return n.finished(channels_last(n, n.permute("input", 0, 2, 3, 1)))


@model
def channels_last_input(n):
    """Keras and TensorFlow: the images too are channels-last."""
    n.channels["input"] = 3
    return n.finished(channels_last(n, "input"), shape=[32, 32, 3])


# ------------------------------------------------------------------------------------------------ tokens and windows
def patches(n, width, kernel, flat=True):
    x = n.conv("input", width, kernel, kernel)
    return n.permute(n.reshape(x, -1, width, (n.size // kernel) ** 2), 0, 2, 1) if flat else n.permute(x, 0, 2, 3, 1)


def blocks(n, x, tokens, count=2):
    for _ in range(count):
        x = n.sum(x, n.attention(n.layer_norm(x), tokens))
        x = n.sum(x, n.mlp(n.layer_norm(x), 2 * n.channels[x]))
    return n.layer_norm(x)


@model
def vit_class_token(n):
    """Tokens with a class token in front, which alone goes on to the head."""
    x, tokens = patches(n, 8, 8), 17
    shape = n.add("Shape", ["input"])
    batch = n.add("Gather", [shape, n.ints(0)], axis=0)
    token = n.add("Expand", [n.noise(1, 1, 8), n.add("Concat", [batch, n.ints(1), n.ints(1)], axis=0)], 8)
    x = n.add("Concat", [token, x], 8, axis=1)
    x = blocks(n, n.add("Add", [x, n.noise(1, tokens, 8, scale=0.5)]), tokens)
    return n.finished(n.head(n.add("Gather", [x, n.constant(0, np.int64)], axis=1)))


@model
def vit_mean(n):
    """Tokens without a class token, averaged."""
    x = blocks(n, n.add("Add", [patches(n, 8, 8), n.noise(1, 16, 8, scale=0.5)]), 16)
    return n.finished(n.head(n.mean(x, 1)))


@model
def mixer(n):
    """MLP-Mixer: a map over tokens, then one over channels."""
    x = patches(n, 8, 8)
    for _ in range(2):
        across = n.permute(n.layer_norm(x), 0, 2, 1, channels=16)
        x = n.sum(x, n.permute(n.mlp(across, 16), 0, 2, 1, channels=8))
        x = n.sum(x, n.mlp(n.layer_norm(x), 16))
    return n.finished(n.head(n.mean(n.layer_norm(x), 1)))


def windows(n, x, rows, width, shift):
    """Attention in windows of `width` rows and columns over (N, rows, rows, C), rolled by `shift` before and back after."""
    c, k = n.channels[x], rows // width

    def rolled(x, by):
        for axis in (1, 2):
            part = lambda a, b: n.add("Slice", [x, n.ints(a), n.ints(b), n.ints(axis)])
            x = n.add("Concat", [part(by % rows, rows), part(0, by % rows)], axis=axis)
        return x

    x = rolled(x, shift) if shift else x
    x = n.permute(n.reshape(x, -1, k, width, k, width, c), 0, 1, 3, 2, 4, 5)
    x = n.attention(n.reshape(x, -1, width * width, c, channels=c), width * width)
    x = n.permute(n.reshape(x, -1, k, k, width, width, c), 0, 1, 3, 2, 4, 5)
    x = n.reshape(x, -1, rows, rows, c, channels=c)
    return rolled(x, -shift) if shift else x


@model
def swin(n):
    """Windows, every second time shifted; 2x2 places merged into one between the stages."""
    x, rows = n.layer_norm(patches(n, 6, 4, flat=False)), 8
    for stage in range(2):
        for shift in (0, 2):
            x = n.sum(x, windows(n, n.layer_norm(x), rows, min(rows, 4), shift if rows > 4 else 0))
            x = n.sum(x, n.mlp(n.layer_norm(x), 2 * n.channels[x]))
        if stage == 0:
            every = lambda r, c: n.add("Slice", [x, n.ints(r, c), n.ints(rows, rows), n.ints(1, 2), n.ints(2, 2)])
            x = n.add("Concat", [every(r, c) for c in (0, 1) for r in (0, 1)], 24, axis=-1)
            w = n.noise(24, 8, scale=24**-0.5)
            x, rows = n.add("MatMul", [n.layer_norm(x), w], 8), 4
    return n.finished(n.head(n.pooled(n.permute(n.layer_norm(x), 0, 3, 1, 2))))


@model
def convnext(n):
    """Channels first between the blocks, last inside them."""
    def norm2d(x):
        return n.permute(n.layer_norm(n.permute(x, 0, 2, 3, 1)), 0, 3, 1, 2)
    x = norm2d(n.conv("input", 6, 4, 4))
    for stage, out in enumerate((6, 8, 10)):
        x = n.conv(norm2d(x), out, 2, 2) if stage else x
        for _ in range(1 if stage < 2 else 2):
            y = n.mlp(n.layer_norm(n.permute(n.conv(x, out, 7, 1, out), 0, 2, 3, 1)), 2 * out)
            x = n.sum(n.permute(n.add("Mul", [y, n.noise(out, scale=0.1, about=0.5)]), 0, 3, 1, 2), x)
    return n.finished(n.head(n.add("Flatten", [norm2d(n.add("GlobalAveragePool", [x]))], axis=1)))


# ------------------------------------------------------------------------------------------------ what they answer
def cuts(made, shapes):
    """Values without which the scores hang on no pixel any more: those of which removing one leaves no way."""
    found = []
    for candidate in shapes:
        reached = {"input"} - {candidate}
        for node in made.graph.node:
            if node.op_type != "Shape" and reached & set(node.input):
                reached |= set(node.output) - {candidate}
        if "logits" not in reached and candidate != "logits":
            found.append([candidate, shapes[candidate]])
    return found


def described(made):
    inside = onnx.shape_inference.infer_shapes(made)
    extended = onnx.ModelProto.FromString(made.SerializeToString())
    extended.graph.output.extend(v for v in inside.graph.value_info)
    shape = [2] + [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = picture(shape)
    y = session(made).run(["logits"], {"input": x})[0]
    (other,) = ReferenceEvaluator(made).run(["logits"], {"input": x})
    assert np.abs(y - other).max() < 2e-5 * np.abs(y).max(), np.abs(y - other).max()
    one = session(extended)
    values = dict(zip([o.name for o in one.get_outputs()], one.run(None, {"input": x[:1]})))
    shapes = {o: list(values[o].shape) for node in made.graph.node for o in node.output if o in values}
    return {"input": shape, "scores": [[float(f"{v:.8g}") for v in row] for row in y], "cuts": cuts(made, shapes)}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, build in MODELS.items():
        made = build(Net(name))
        (OUT / f"{name}.onnx").write_bytes(made.SerializeToString())
        rows[name] = described(made)
        size = (OUT / f"{name}.onnx").stat().st_size
        print(f"{name:24}{size:8} bytes, {len(made.graph.node):4} nodes, {len(rows[name]['cuts']):3} cuts")
    text = ",\n".join(f' "{k}": ' + json.dumps(v) for k, v in rows.items())
    (OUT / "sites.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
