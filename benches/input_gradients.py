#!/usr/bin/env python3
"""Gradients with respect to the image, of every architecture of a zoo, beside PyTorch's.

    benches/zoo_models.py ZOO --kinds architectures
    benches/input_gradients.py ZOO [--only NAME ...]     (writes ZOO/gradients/NAME.safetensors, runs the comparison)

Two images of the fixture; the gradient is that of the sum of fixed weights times the scores, in float32 and float64. A
gradient is within where its largest difference to float64 is at most 1e-3 of the largest entry, or ten times what
PyTorch's own float32 differs, on these images and on eight copies moved by 1e-6: where rounding decides on which side of
a kink a value lies (a ReLU at 0, the larger of two pixels), the gradient of a patch of pixels is another one. Prints `cargo bench --bench input_gradient`'s lines. Needs what zoo_models.py needs, and
safetensors. One thread.
"""
import argparse
import copy
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import zoo_models as zoo  # sets the number of threads first
import torch
from safetensors.torch import save_file


def reference(name, path):
    net, size, _ = zoo.network(name)
    x = zoo.normalised(zoo.pixels(size, 2))
    w = torch.linspace(-1, 1, 10).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    found = {"x": x.contiguous(), "w": w.contiguous()}
    for key, made, dtype in (("gradient", net, torch.float32), ("gradient64", copy.deepcopy(net).double(), torch.float64)):
        image = x.detach().clone().to(dtype).requires_grad_(True)
        scores = made(image)
        (scores * w.to(dtype)).sum().backward()
        found[key] = image.grad.contiguous()
        if key == "gradient":
            found["scores"] = scores.detach().contiguous()
    moved = []
    for draw in range(8):
        torch.manual_seed(draw)
        image = (x * (1 + 1e-6 * (2 * torch.randint(0, 2, x.shape) - 1))).requires_grad_(True)
        (net(image) * w).sum().backward()
        moved.append((image.grad.double() - found["gradient64"]).abs().max() / found["gradient64"].abs().max())
    found["moved"] = torch.stack(moved)
    save_file(found, str(path))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("zoo", type=pathlib.Path)
    arguments.add_argument("--only", nargs="*")
    given = arguments.parse_args()
    folder = given.zoo / "gradients"
    folder.mkdir(exist_ok=True)
    pairs = []
    for name in zoo.NETS:
        model, path = given.zoo / "onnx" / f"{name}.ts.onnx", folder / f"{name}.safetensors"
        if given.only and name not in given.only or not model.exists():
            continue
        try:
            if not path.exists():
                reference(name, path)
            pairs += [str(model.resolve()), str(path.resolve())]
        except Exception as e:  # a network that PyTorch itself cannot differentiate
            print(f"{name}: no reference: {type(e).__name__}: {e}"[:200], flush=True)
    sys.exit(subprocess.run(["cargo", "bench", "-q", "--bench", "input_gradient", "--", *pairs]).returncode)


if __name__ == "__main__":
    main()
