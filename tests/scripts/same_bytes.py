#!/usr/bin/env python3
"""Do two versions of the program write the same files?

Builds both commits (or takes built binaries), purifies the fixture and the given models with each, and compares what was
written: the whole file but the metadata `polarizer.version` and `polarizer.settings`, and the digest of the layer alone.
Needs Python's `onnx` package. Prints a table; exit status 1 where anything differs.

    tests/scripts/same_bytes.py f6d7310 HEAD
    tests/scripts/same_bytes.py f6d7310 HEAD --models ../shared/models --images ../shared/images/clean
    tests/scripts/same_bytes.py old/polarizer new/polarizer --only fixture
"""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import onnx

ROOT = pathlib.Path(__file__).resolve().parents[2]
FREE = ("polarizer.version", "polarizer.settings")
PUBLISHED = ["--recipe", "published", "--warmup", "1", "--epochs", "2", "--max-acc-drop", "100"]


def build(name: str) -> pathlib.Path:
    """The binary of a commit, or the file that `name` is."""
    if os.path.isfile(name):
        return pathlib.Path(name).resolve()
    commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short", name], text=True).strip()
    tree = ROOT / "target" / "same-bytes" / commit
    if not tree.exists():
        subprocess.check_call(["git", "-C", ROOT, "worktree", "add", "--detach", tree, commit])
    subprocess.check_call(["cargo", "build", "--release"], cwd=tree)
    return tree / "target" / "release" / "polarizer"


def digests(path: pathlib.Path) -> tuple[str, str]:
    """Of the file without what may differ, and of the layer as the file states it."""
    model = onnx.load(path, load_external_data=False)
    stated = {p.key: p.value for p in model.metadata_props}
    for prop in model.metadata_props:
        if prop.key in FREE:
            prop.value = ""
    whole = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return whole, stated.get("polarizer.layer_sha256", "")


def kept(folder, binary, name, cpu) -> pathlib.Path:
    """Where a run's file goes: by the binary's digest and the case."""
    own = hashlib.sha256(pathlib.Path(binary).read_bytes()).hexdigest()[:12]
    return pathlib.Path(folder) / f"{own}-{name}-{cpu}.onnx".replace(" ", "").replace(",", "-")


def purify(binary, model, images, options, cpu, out) -> tuple[float, str]:
    """Seconds of processor time, NaN where the file was there already, and what went wrong."""
    if out.exists():
        return float("nan"), ""
    env = {**os.environ, **({"POLARIZER_CPU": cpu} if cpu != "native" else {})}
    command = [binary, "purify", model, "-o", out, "--force", "--quiet", "--preset", "cifar10", "--data", images]
    before = os.times()
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True)
    after = os.times()
    seconds = sum(getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system"))
    return seconds, done.stderr.strip() if done.returncode else ""


def cases(args):
    fixture = (ROOT / "fixtures/model.onnx", ROOT / "fixtures/images/clean")
    if args.only in ("fixture", "all"):
        for cpu in args.cpus:
            yield "fixture, default", *fixture, [], cpu
            yield "fixture, published", *fixture, ["--recipe", "published"], cpu
    if args.models and args.only in ("models", "all"):
        for model in sorted(pathlib.Path(args.models).glob("*.onnx")):
            yield f"{model.stem}, default", model, args.images, [], "native"
            yield f"{model.stem}, published 1 + 2", model, args.images, PUBLISHED, "native"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit or a binary")
    parser.add_argument("after", help="a commit or a binary")
    parser.add_argument("--models", help="folder of more ONNX files, all with CIFAR-10's preprocessing")
    parser.add_argument("--images", help="clean images for them")
    parser.add_argument("--cpus", nargs="+", default=["native", "avx2", "portable"])
    parser.add_argument("--keep", help="folder that written files stay in, and are taken from the next time")
    parser.add_argument("--only", choices=["all", "fixture", "models"], default="all")
    args = parser.parse_args()
    binaries = [build(args.before), build(args.after)]
    if args.keep:
        pathlib.Path(args.keep).mkdir(parents=True, exist_ok=True)
    differ = 0
    print("| case | kernels | files | layers | processor seconds before, after | clock |\n| --- | --- | --- | --- | --- | --- |")
    for name, model, images, options, cpu in cases(args):
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            outs = [kept(args.keep or folder, b, name, cpu) for b in binaries]
            runs = [purify(b, model, images, options, cpu, o) for b, o in zip(binaries, outs)]
            failed = [error for _, error in runs]
            if any(failed):
                files = layers = "same refusal" if failed[0] == failed[1] else f"{failed}"
                differ += failed[0] != failed[1]
            else:
                (a, la), (b, lb) = map(digests, outs)
                files, layers = ("same" if same else "DIFFERENT" for same in (a == b, la == lb))
                differ += a != b or la != lb or not la
        seconds = ", ".join(f"{s:.1f}" for s, _ in runs)
        print(f"| {name} | {cpu} | {files} | {layers} | {seconds} | {time.time() - began:.0f} s |", flush=True)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
