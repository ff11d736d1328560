#!/usr/bin/env python3
"""Image classifiers of many architectures, and one as people deploy it, as ONNX files for `zoo.py`.

    benches/zoo_models.py ZOO [--kinds architectures variants keras] [--only NAME ...] [--list] [--seconds 300]

Writes ZOO/onnx/NAME.ts.onnx (PyTorch's TorchScript exporter) and NAME.dyn.onnx (its torch.export one), and a line a
file in ZOO/models.jsonl: size, what pixels it wants, how far onnxruntime is from PyTorch, or why there is no file. What
has its line is passed over. Weights are random: BatchNorms are calibrated on the fixture's images and the head is
scaled, so that answers differ from image to image; nothing is downloaded.

Architectures are torchvision's and timm's with ten classes at the smallest size that they make sense at. Variants are
ResNet-18 (others where named) with its preprocessing or softmax inside, other layouts and types, other opsets, through
the tools that files pass through (onnxsim, OnnxSlim, onnxruntime's optimiser, quantisers, float16 converters).
Needs torch, torchvision, timm, onnx, onnxruntime, onnxscript, pillow; onnxconverter-common, onnxsim, onnxslim, keras
for what comes from these. One thread.
"""
import argparse
import copy
import dataclasses
import json
import logging
import os
import pathlib
import signal
import time
import typing
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from onnx import helper  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

IMAGES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "images" / "clean"
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
SCRIPT, PROGRAM = "ts", "dyn"


def pixels(size, count):
    """(count, 3, size, size) in [0, 1], the classes in turn."""
    files = sorted(IMAGES.glob("*/*.png"), key=lambda p: (p.name, p.parent.name))[:count]
    images = [Image.open(p).convert("RGB").resize((size, size), Image.BILINEAR) for p in files]
    return torch.from_numpy(np.stack([np.asarray(i, np.float32) / 255 for i in images])).permute(0, 3, 1, 2).contiguous()


def normalised(x):
    return (x - MEAN) / STD


# ------------------------------------------------------------------------------------------------ architectures
def tv(name, **options):
    return lambda: getattr(torchvision.models, name)(weights=None, num_classes=10, **options)


def tm(name, **options):
    return lambda: timm.create_model(name, pretrained=False, num_classes=10, **options)


def vgg(name):
    """As CIFAR's users have it: the stock pool would blow one place up to 7x7."""
    def make():
        net = tv(name)()
        net.avgpool, net.classifier[0], net.classifier[3] = nn.Identity(), nn.Linear(512, 512), nn.Linear(512, 512)
        net.classifier[6] = nn.Linear(512, 10)
        return net
    return make


def maxvit():
    return torchvision.models.MaxVit(input_size=(64, 64), stem_channels=64, partition_size=2, head_dim=32,
                                     num_classes=10, block_channels=[64, 128, 256, 512], block_layers=[2, 2, 5, 2],
                                     stochastic_depth_prob=0.2)


def convmixer():
    return timm.models.convmixer.ConvMixer(256, 8, kernel_size=5, patch_size=2, num_classes=10)


NETS = {  # name: (size, maker)
    "resnet18": (32, tv("resnet18")),
    "mobilenet_v3_small": (32, tv("mobilenet_v3_small")),
    "squeezenet1_1": (32, tv("squeezenet1_1")),
    "shufflenet_v2_x1_0": (32, tv("shufflenet_v2_x1_0")),
    "mobilenet_v2": (32, tv("mobilenet_v2")),
    "mnasnet1_0": (32, tv("mnasnet1_0")),
    "mobilenet_v3_large": (32, tv("mobilenet_v3_large")),
    "vgg11": (32, vgg("vgg11")),
    "vgg19_bn": (32, vgg("vgg19_bn")),
    "resnet50": (32, tv("resnet50")),
    "googlenet": (64, tv("googlenet", aux_logits=False, init_weights=False)),
    "googlenet_as_shipped": (64, tv("googlenet", aux_logits=False, init_weights=False, transform_input=True)),
    "efficientnet_b0": (32, tv("efficientnet_b0")),
    "regnet_y_400mf": (32, tv("regnet_y_400mf")),
    "regnet_x_400mf": (32, tv("regnet_x_400mf")),
    "densenet121": (32, tv("densenet121")),
    "convnext_tiny": (32, tv("convnext_tiny")),
    "ecaresnet26t": (64, tm("ecaresnet26t")),
    "legacy_seresnet18": (32, tm("legacy_seresnet18")),
    "resnetv2_50": (32, tm("resnetv2_50")),
    "repvgg_a0": (32, tm("repvgg_a0")),
    "ghostnet_100": (32, tm("ghostnet_100")),
    "tinynet_a": (32, tm("tinynet_a")),
    "mobilenetv4_conv_small": (32, tm("mobilenetv4_conv_small")),
    "dla34": (32, tm("dla34")),
    "poolformer_s12": (64, tm("poolformer_s12")),
    "deit_tiny_patch16": (64, tm("deit_tiny_patch16_224", img_size=64)),
    "mixer_s32": (96, tm("mixer_s32_224", img_size=96)),
    "convmixer_256_8": (32, convmixer),
    "fastvit_t8": (64, tm("fastvit_t8")),
    "edgenext_xx_small": (64, tm("edgenext_xx_small")),
    "mobilevit_xs": (64, tm("mobilevit_xs")),
    "res2net50_26w_4s": (32, tm("res2net50_26w_4s")),
    "cspresnet50": (64, tm("cspresnet50")),
    "hrnet_w18_small": (64, tm("hrnet_w18_small")),
    "xcit_nano_12_p16": (64, tm("xcit_nano_12_p16_224", img_size=64)),
    "nfnet_l0": (64, tm("nfnet_l0")),
    "eca_nfnet_l0": (64, tm("eca_nfnet_l0")),
    "eca_resnet33ts": (64, tm("eca_resnet33ts")),
    "swin_t": (64, tv("swin_t")),
    "swin_v2_t": (64, tv("swin_v2_t")),
    "vit_b_16": (64, lambda: torchvision.models.vit_b_16(weights=None, num_classes=10, image_size=64)),
    "maxvit_t": (64, maxvit),
    "inception_v3": (96, tv("inception_v3", init_weights=False, aux_logits=False, transform_input=True)),
    "efficientnet_v2_s": (32, tv("efficientnet_v2_s")),
    "efficientnet_b3": (32, tv("efficientnet_b3")),
    "resnext50_32x4d": (32, tv("resnext50_32x4d")),
    "wide_resnet50_2": (32, tv("wide_resnet50_2")),
    "densenet161": (32, tv("densenet161")),
    "coatnet_0": (64, tm("coatnet_0_rw_224", img_size=64)),
    "beit_base_patch16": (64, tm("beit_base_patch16_224", img_size=64)),
    "levit_128s": (224, tm("levit_128s")),
    "efficientformer_l1": (224, tm("efficientformer_l1")),
    "alexnet": (224, tv("alexnet")),
    # families beside those, small members
    "convnextv2_atto": (64, tm("convnextv2_atto")),
    "efficientvit_b0": (64, tm("efficientvit_b0")),
    "efficientvit_m0": (224, tm("efficientvit_m0")),
    "mobileone_s0": (64, tm("mobileone_s0")),
    "repvit_m0_9": (64, tm("repvit_m0_9")),
    "repghostnet_050": (64, tm("repghostnet_050")),
    "starnet_s1": (64, tm("starnet_s1")),
    "fasternet_t0": (64, tm("fasternet_t0")),
    "mambaout_femto": (64, tm("mambaout_femto")),
    "swiftformer_xs": (224, tm("swiftformer_xs")),
    "pvt_v2_b0": (64, tm("pvt_v2_b0")),
    "tiny_vit_5m": (224, tm("tiny_vit_5m_224")),
    "efficientformerv2_s0": (224, tm("efficientformerv2_s0")),
    "coat_lite_tiny": (64, tm("coat_lite_tiny", img_size=64)),
    "cait_xxs24": (224, tm("cait_xxs24_224")),
    "crossvit_tiny": (240, tm("crossvit_tiny_240")),
    "visformer_tiny": (224, tm("visformer_tiny")),
    "twins_pcpvt_small": (224, tm("twins_pcpvt_small")),
    "convit_tiny": (224, tm("convit_tiny")),
    "resmlp_12": (224, tm("resmlp_12_224")),
    "gmlp_ti16": (224, tm("gmlp_ti16_224")),
    "caformer_s18": (64, tm("caformer_s18")),
    "poolformerv2_s12": (64, tm("poolformerv2_s12")),
    "focalnet_tiny": (64, tm("focalnet_tiny_srf")),
    "davit_tiny": (64, tm("davit_tiny")),
    "hiera_tiny": (224, tm("hiera_tiny_224")),
    "eva02_tiny": (56, tm("eva02_tiny_patch14_224", img_size=56)),
    "vit_registers": (64, tm("vit_wee_patch16_reg1_gap_256", img_size=64)),
    "vit_small_map": (64, tm("vit_base_patch16_siglip_gap_224", img_size=64, embed_dim=192, depth=4, num_heads=3)),
    "volo_d1": (224, tm("volo_d1_224")),
    "sequencer2d_s": (224, tm("sequencer2d_s")),
    "xception41": (64, tm("xception41")),
    "legacy_xception": (64, tm("legacy_xception")),
    "inception_v4": (96, tm("inception_v4")),
    "inception_resnet_v2": (96, tm("inception_resnet_v2")),
    "inception_next_atto": (96, tm("inception_next_atto")),
    "dpn48b": (64, tm("dpn48b")),
    "selecsls42b": (64, tm("selecsls42b")),
    "ese_vovnet19b_dw": (64, tm("ese_vovnet19b_dw")),
    "rexnet_100": (64, tm("rexnet_100")),
    "skresnet18": (64, tm("skresnet18")),
    "resnest14d": (64, tm("resnest14d")),
    "gernet_s": (64, tm("gernet_s")),
    "mixnet_s": (64, tm("mixnet_s")),
    "tf_efficientnet_b0": (64, tm("tf_efficientnet_b0")),
    "tf_mixnet_s": (64, tm("tf_mixnet_s")),
    "lcnet_050": (64, tm("lcnet_050")),
    "fbnetc_100": (64, tm("fbnetc_100")),
    "hgnetv2_b0": (64, tm("hgnetv2_b0")),
    "regnetz_b16": (64, tm("regnetz_b16")),
    "resnetblur18": (64, tm("resnetblur50", block=timm.models.resnet.BasicBlock, layers=[2, 2, 2, 2])),
    "resnetv2_50x1_bit": (64, tm("resnetv2_50x1_bit")),
    "seresnet_aa": (64, tm("seresnetaa50d")),
    "cs3darknet_s": (64, tm("cs3darknet_s")),
    "botnet26t": (256, tm("botnet26t_256")),
    "halonet26t": (256, tm("halonet26t")),
    "lambda_resnet26t": (256, tm("lambda_resnet26t")),
    "gcresnext26ts": (64, tm("gcresnext26ts")),
    "bat_resnext26ts": (256, tm("bat_resnext26ts")),
    "groupnorm_resnet": (64, tm("resnet26", norm_layer=lambda c, **k: nn.GroupNorm(8, c))),
    "evonorm_resnet": (64, tm("resnetv2_50d_evos")),
    "frn_resnet": (64, tm("resnetv2_50d_frn")),
    "mobilenetv4_hybrid_medium": (64, tm("mobilenetv4_hybrid_medium")),
    "mobilenet_edgetpu_v2_xs": (64, tm("mobilenet_edgetpu_v2_xs")),
    "ghostnetv2_100": (64, tm("ghostnetv2_100")),
    "ghostnetv3_050": (64, tm("ghostnetv3_050")),
    "shvit_s1": (224, tm("shvit_s1")),
    "nextvit_small": (64, tm("nextvit_small")),
    "nest_tiny_jx": (224, tm("nest_tiny_jx")),
    "gcvit_xxtiny": (224, tm("gcvit_xxtiny")),
    "swinv2_cr_tiny": (224, tm("swinv2_cr_tiny_224")),
    "vitamin_small": (224, tm("vitamin_small_224")),
    "mvitv2_tiny": (224, tm("mvitv2_tiny")),
    "rdnet_tiny": (64, tm("rdnet_tiny")),
}


# ------------------------------------------------------------------------------------------------ weights
def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def prepare(net, size, gentle=False):
    """Random affine parameters, branches that are not nearly off, statistics of images, a head of plain differences.

    Under `gentle` no channel is enlarged by much: the network loses fewer digits to rounding."""
    g = torch.Generator().manual_seed(1)
    uniform = lambda p, low, high: p.data.copy_(torch.rand(p.shape, generator=g) * (high - low) + low)
    for norm in norms(net):
        if norm.affine:
            uniform(norm.weight, *((0.9, 1.1) if gentle else (0.5, 1.5)))
            norm.bias.data.copy_(torch.randn(norm.bias.shape, generator=g) * 0.1)
    for name, p in net.named_parameters():
        last = name.rpartition(".")[2]
        branch = "layer_scale" in name or last.startswith("gamma") or last == "skipinit_gain"
        if branch or ".ls" in name and last == "scale":
            uniform(p, 0.4, 1.0)
        elif p.dim() == 1 and last == "gain":
            p.data.fill_(1.0)
    x = normalised(pixels(size, 64 if size > 100 else 128))
    with torch.no_grad():
        calibrate(net, x, gentle)
        scale_head(net, x[:64])
        scores = net(x[:32])
    return {"answers": len(scores.argmax(1).unique()), "spread": round(float(scores.std()), 3),
            "finite": bool(scores.isfinite().all())}


def calibrate(net, x, gentle):
    net.eval()
    for norm in norms(net):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms(net):
        for part in x.split(32):
            net(part)
    net.eval()
    for norm in norms(net) if gentle else []:
        norm.running_var.clamp_(min=0.3 * float(norm.running_var.mean()))


def scale_head(net, x):
    """The last layer of ten outputs: scores of mean 0 and deviation 3."""
    outputs = lambda m: m.out_features if isinstance(m, nn.Linear) else m.out_channels if isinstance(m, nn.Conv2d) else 0
    for head in [m for m in net.modules() if outputs(m) == 10][-1:]:
        seen = []
        hook = head.register_forward_hook(lambda module, given, made: seen.append(made.detach()))
        net(x)
        hook.remove()
        y = seen[0].movedim(1, -1).flatten(0, -2) if seen[0].dim() == 4 else seen[0]
        scale = 3 / y.std(0).mean().clamp_min(1e-9)
        head.weight.data *= scale
        if head.bias is not None:
            head.bias.data.copy_((head.bias - y.mean(0)) * scale)


def network(name, gentle=False):
    size, make = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    return net, size, prepare(net, size, gentle)


# ------------------------------------------------------------------------------------------------ exporters
FREE = {"input": {0: "batch"}, "logits": {0: "batch"}}
ANY_SIZE = {"input": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}


def script(net, x, path, opset=17, **options):
    options = {"dynamic_axes": FREE, "output_names": ["logits"], **options}
    torch.onnx.export(net, (x,), str(path), dynamo=False, opset_version=opset, input_names=["input"], **options)


def program(net, x, path, free=True, **options):
    options = {"external_data": False, **options}
    if free:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    torch.onnx.export(net, (x,), str(path), dynamo=True, input_names=["input"], output_names=["logits"],
                      verbose=False, **options)


EXPORTERS = {SCRIPT: script, PROGRAM: program}


class Around(nn.Module):
    """A network with something before or behind it."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function
        self.register_buffer("mean", MEAN.clone()), self.register_buffer("std", STD.clone())

    def forward(self, x):
        return self.function(self, x)


def apart(path, x, net):
    """The largest difference between onnxruntime and PyTorch, over the largest score."""
    with torch.no_grad():
        theirs = net(x).float().numpy()
    ours = session(path).run(None, {"input": x.numpy()})[0].astype(np.float32)
    return float(f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.2e}")


def session(path, **options):
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = 1, 4
    for name, value in options.items():
        setattr(chosen, name, value)
    return ort.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------------------ files
@dataclasses.dataclass
class File:
    """`write(path)` makes it and may return more for its line. `pixels`: cifar10 (normalised), unit, or bytes (0-255)."""
    name: str
    kind: str
    size: int
    write: typing.Callable
    pixels: str = "cifar10"
    layout: str = "nchw"


def architectures():
    made = {}

    def write(name, exporter, path):
        if name not in made:
            made.clear()
            made[name] = network(name)
        net, size, seen = made[name]
        EXPORTERS[exporter](net, normalised(pixels(size, 2)), path)
        return seen | {"torch": apart(path, normalised(pixels(size, 8)), net)}

    for name, (size, _) in NETS.items():
        for exporter in EXPORTERS:
            yield File(f"{name}.{exporter}", "architecture", size, lambda path, n=name, e=exporter: write(n, e, path))


def variants(out):
    """ResNet-18 as it is deployed."""
    held = {}

    def base():
        if not held:
            held["net"] = network("resnet18")[0]
        return held["net"]

    x, unit = normalised(pixels(32, 2)), pixels(32, 2)
    octets = (unit * 255).round().to(torch.uint8)
    last = lambda t: t.permute(0, 2, 3, 1).contiguous()
    functions = {  # name: (function, example, pixels, layout)
        "softmax": (lambda m, x: m.net(x).softmax(1), x, "cifar10", "nchw"),
        "logsoftmax": (lambda m, x: m.net(x).log_softmax(1), x, "cifar10", "nchw"),
        "norm01": (lambda m, x: m.net((x - m.mean) / m.std), unit, "unit", "nchw"),
        "norm255": (lambda m, x: m.net((x / 255.0 - m.mean) / m.std), unit * 255, "bytes", "nchw"),
        "uint8": (lambda m, x: m.net((x.float() / 255.0 - m.mean) / m.std), octets, "bytes", "nchw"),
        "nhwc": (lambda m, x: m.net(x.permute(0, 3, 1, 2)), last(x), "cifar10", "nhwc"),
        "nhwc_uint8": (lambda m, x: m.net((x.permute(0, 3, 1, 2).float() / 255.0 - m.mean) / m.std), last(octets),
                       "bytes", "nhwc"),
        "argmax": (lambda m, x: m.net(x).argmax(1), x, "cifar10", "nchw"),
        "bgr": (lambda m, x: m.net(x.flip(1)), x.flip(1), "bgr", "nchw"),
        "map_scores": (lambda m, x: m.net(x)[:, :, None, None], x, "cifar10", "nchw"),
    }
    for name, (function, given, how, layout) in functions.items():
        for tag, exporter in EXPORTERS.items():
            write = lambda path, f=function, e=exporter, g=given: e(Around(base(), f).eval(), g, path)
            yield File(f"v_{name}.{tag}", "variant", 32, write, how, layout)
    modes = torch.onnx.TrainingMode
    plain = {"batch1.ts": lambda p: script(base(), x[:1], p, dynamic_axes=None),
             "batch1.dyn": lambda p: program(base(), x[:1], p, free=False),
             "batch8.ts": lambda p: script(base(), normalised(pixels(32, 8)), p, dynamic_axes=None),
             "dynamic_hw.ts": lambda p: script(base(), x, p, dynamic_axes=ANY_SIZE),
             "init_as_inputs.ts": lambda p: script(base(), x, p, keep_initializers_as_inputs=True),
             "unfolded_bn.ts": lambda p: script(base(), x, p, do_constant_folding=False, training=modes.PRESERVE),
             "training_mode.ts": lambda p: (script(base(), x, p, training=modes.TRAINING), base().eval()) and None,
             "external.dyn": lambda p: program(base(), x, p, external_data=True),
             "no_optimize.dyn": lambda p: program(base(), x, p, optimize=False)}
    for opset in (9, 11, 13, 15, 18):
        plain[f"opset{opset}.ts"] = lambda p, o=opset: script(base(), x, p, opset=o)
    for opset in (18, 20, 22, 23):
        plain[f"opset{opset}.dyn"] = lambda p, o=opset: program(base(), x, p, opset_version=o)
    for tag, exporter in EXPORTERS.items():
        plain[f"half.{tag}"] = lambda p, e=exporter: e(copy.deepcopy(base()).half(), x.half(), p)
        plain[f"bfloat16.{tag}"] = lambda p, e=exporter: e(copy.deepcopy(base()).bfloat16(), x.bfloat16(), p)
    both = {"two_outputs": lambda m, x: (lambda y: (y, y.softmax(1)))(m.net(x)),
            "scores_and_argmax": lambda m, x: (lambda y: (y.argmax(1), y))(m.net(x))}
    for name, function in both.items():
        plain[f"{name}.ts"] = lambda p, f=function: script(Around(base(), f).eval(), x, p, output_names=["a", "b"],
                                                           dynamic_axes={"input": {0: "batch"}})
    for name, write in plain.items():
        yield File(f"v_{name}", "variant", 32, write)
    yield from through_tools(out)
    yield from reshaped(out)


def through_tools(out):
    """What other tools make of an exported file."""
    from onnxruntime import quantization
    levels = ort.GraphOptimizationLevel
    loaded = lambda name: onnx.load(str(out / f"{name}.onnx"))

    def simplified(source):
        import onnxsim
        made, right = onnxsim.simplify(loaded(source))
        assert right
        return made

    def slimmed(source):
        import onnxslim
        return onnxslim.slim(loaded(source))

    def half(source, keep):
        from onnxconverter_common import float16
        return float16.convert_float_to_float16(loaded(source), keep_io_types=keep)

    class Reader:
        def __init__(self):
            self.batches = iter(normalised(pixels(32, 64)).split(8))

        def get_next(self):
            return next(({"input": b.numpy()} for b in self.batches), None)

    def static(form):
        return lambda p: quantization.quantize_static(
            str(out / "resnet18.ts.onnx"), str(p), Reader(), quant_format=form, per_channel=True,
            weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8)

    def optimised(level, source):
        return lambda p: session(out / f"{source}.onnx", graph_optimization_level=level,
                                 optimized_model_filepath=str(p)) and None

    saved = {}
    for source in ("resnet18.ts", "resnet18.dyn", "mobilenet_v3_small.ts", "swin_t.ts", "deit_tiny_patch16.ts",
                   "shufflenet_v2_x1_0.ts"):
        saved["onnxsim", source] = lambda s=source: simplified(s)
        saved["onnxslim", source] = lambda s=source: slimmed(s)
    for source in ("resnet18.ts", "mobilenet_v3_small.ts", "deit_tiny_patch16.ts"):
        saved["fp16", source] = lambda s=source: half(s, False)
        saved["fp16_keep_io", source] = lambda s=source: half(s, True)
    for (tool, source), make in saved.items():
        size = NETS[source.rpartition(".")[0]][0]
        yield File(f"v_{tool}_{source}", "variant", size, lambda p, m=make: onnx.save(m(), str(p)))
    for level, name in ((levels.ORT_ENABLE_BASIC, "basic"), (levels.ORT_ENABLE_EXTENDED, "extended"), (levels.ORT_ENABLE_ALL, "all")):
        for source in ("resnet18.ts", "mobilenet_v3_small.ts", "deit_tiny_patch16.ts"):
            yield File(f"v_ort_{name}_{source}", "variant", NETS[source[:-3]][0], optimised(level, source))
    for source in ("resnet18.ts", "mobilenet_v2.ts"):
        for name, port in (("inside", False), ("input", True)):
            yield File(f"v_channels_last_{name}_{source}", "variant", 32,
                       lambda p, s=source, o=port: onnx.save(channels_last(loaded(s), o), str(p)),
                       layout="nhwc" if port else "nchw")
    yield File("v_qdq.ts", "variant", 32, static(quantization.QuantFormat.QDQ))
    yield File("v_qoperator.ts", "variant", 32, static(quantization.QuantFormat.QOperator))
    yield File("v_dynamic_quant.ts", "variant", 32,
               lambda p: quantization.quantize_dynamic(str(out / "resnet18.ts.onnx"), str(p)))
    yield File("v_external.ts", "variant", 32, lambda p: onnx.save_model(
        loaded("resnet18.ts"), str(p), save_as_external_data=True, all_tensors_to_one_file=True, location=p.name + ".data"))


def reshaped(out):
    """Deployed forms of networks that have one, older opsets of newer networks, free heights and widths, tame weights."""
    def deployed(name, path):
        from timm.utils.model import reparameterize_model
        net, size, _ = network(name)
        script(reparameterize_model(net), normalised(pixels(size, 2)), path)

    def older(name, path):
        net, size, _ = network(name)
        script(net, normalised(pixels(size, 2)), path, opset=16)

    def free(name, path):
        script(network(name)[0], normalised(pixels(64, 2)), path, dynamic_axes=ANY_SIZE)

    def tame(name, path):
        net, size, seen = network(name, gentle=True)
        script(net, normalised(pixels(size, 2)), path)
        return seen | {"torch": apart(path, normalised(pixels(size, 8)), net)}

    forms = [("deployed", deployed, "repvgg_a0 fastvit_t8 mobileone_s0 repvit_m0_9 repghostnet_050"),
             ("opset16", older, "convnext_tiny swin_t deit_tiny_patch16 levit_128s poolformer_s12 mobilevit_xs edgenext_xx_small"),
             ("hw", free, "resnet18 mobilenet_v2 shufflenet_v2_x1_0 squeezenet1_1 efficientnet_b0 densenet121 googlenet vgg19_bn"),
             ("tame", tame, "efficientnet_b0 efficientnet_b3 efficientnet_v2_s tinynet_a regnet_x_400mf resnet50 resnetv2_50")]
    for form, write, names in forms:
        for name in names.split():
            size = 224 if form == "hw" else NETS[name][0]
            yield File(f"v_{form}_{name}.ts", "variant", size, lambda p, n=name, w=write: w(n, p))


def channels_last(model, port):
    """A file as exporters of channels-last frameworks write it before anything tidies up: values stand (N, H, W, C),
    every convolution, pool and normalisation between two Transposes; with `port` the images too. For networks of
    these, of element-wise operators and a head of one place."""
    graph, new = model.graph, []
    source = graph.input[0].name
    if port:
        dims = graph.input[0].type.tensor_type.shape.dim
        dims[1].dim_value, dims[3].dim_value = dims[3].dim_value, dims[1].dim_value
    else:
        new.append(helper.make_node("Transpose", [source], ["channels_last"], name="to_channels_last", perm=[0, 2, 3, 1]))
    for node in graph.node:
        if not port:
            node.input[:] = ["channels_last" if i == source else i for i in node.input]
        if node.op_type not in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization"):
            new.append(node)
            continue
        given, made = node.input[0], node.output[0]
        node.input[0], node.output[0] = made + "/first", made + "/made"
        turn = lambda a, b, name, order: helper.make_node("Transpose", [a], [b], name=node.name + name, perm=order)
        new.append(turn(given, made + "/first", "/first", [0, 3, 1, 2]))
        new.append(node)
        new.append(turn(made + "/made", made, "/last", [0, 2, 3, 1]))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(new)
    return model


def keras_files(out):
    """Keras' own applications, channels last, through its exporter on PyTorch."""
    names = ("MobileNet MobileNetV2 MobileNetV3Small ResNet50V2 DenseNet121 EfficientNetB0 EfficientNetV2B0 ConvNeXtTiny "
             "Xception InceptionV3 NASNetMobile VGG16")

    def write(maker, path):
        import keras
        keras.utils.set_random_seed(0)
        net = getattr(keras.applications, maker)(weights=None, classes=10, input_shape=(96, 96, 3))
        x = (pixels(96, 32).permute(0, 2, 3, 1) * 255).contiguous()
        for layer in net._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        with torch.no_grad():
            net(x, training=True)
            last = net.layers[-1]
            scores = keras.Model(net.input, last.input)(x, training=False) @ last.kernel.value
            last.kernel.assign(last.kernel.value * 3 / scores.std(0).mean())
            last.bias.assign(-scores.mean(0) * 3 / scores.std(0).mean())
            answers = net(x, training=False).argmax(1).unique()
        net.export(str(path), format="onnx", verbose=False)
        return {"answers": len(answers)}

    for name in names.split():
        yield File(f"keras_{name}.ts", "keras", 96, lambda p, m=name: write(m, p), "bytes", "nhwc")


# ------------------------------------------------------------------------------------------------ command
class Late(Exception):
    pass


def limited(seconds, function, *arguments):
    def late(*_):
        raise Late(f"not within {seconds} s")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return function(*arguments)
    finally:
        signal.alarm(0)


def one(file, out, seconds):
    path, began = out / f"{file.name}.onnx", time.monotonic()
    row = {"file": file.name, "kind": file.kind, "size": file.size, "pixels": file.pixels, "layout": file.layout}
    try:
        row |= limited(seconds, file.write, path) or {}
        row |= {"ok": True, "bytes": path.stat().st_size}
    except Exception as error:
        path.unlink(missing_ok=True)
        row |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:400]}
    return row | {"seconds": round(time.monotonic() - began, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=pathlib.Path)
    kinds = ["architectures", "variants", "keras"]
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--only", nargs="*", help="names or beginnings of names")
    parser.add_argument("--exporters", nargs="+", default=list(EXPORTERS), choices=list(EXPORTERS))
    parser.add_argument("--list", action="store_true", help="print what would be made")
    parser.add_argument("--seconds", type=int, default=300, help="the longest that one file may take")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    out, lines = args.zoo / "onnx", args.zoo / "models.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["file"] for line in lines.read_text().splitlines()} if lines.exists() else set()
    makers = {"architectures": architectures, "variants": lambda: variants(out), "keras": lambda: keras_files(out)}
    for kind in args.kinds:
        for file in makers[kind]():
            left_out = args.only and not file.name.startswith(tuple(args.only))
            if file.name in done or left_out or file.name.rpartition(".")[2] not in args.exporters:
                continue
            if args.list:
                print(file.name)
                continue
            row = one(file, out, args.seconds)
            with lines.open("a") as f:
                f.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
