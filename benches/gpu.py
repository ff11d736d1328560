#!/usr/bin/env python3
"""Everything that has to be seen on a GPU, in one command and under ten minutes: the kernels against the processor's,
whole trainings, their profile, and the reference beside them.

    cargo build --release --features cuda && cargo test --release --features cuda --test gpu --no-run
    python benches/gpu.py CASES.json --polarizer target/release/polarizer --tests target/release/deps/gpu-...
                          [--reference npd_torch.py] [--reference-epochs 50] [--seeds 0 1 2] [--root DIR] [--out DIR]

CASES.json as for quality.py, with `site` where there is a reference: the node whose input the published method takes.
Both binaries can be built on a machine without a GPU and carried. The reference is the method in eager PyTorch on the same
ONNX file; it prints a JSON object a line, and its python is the one that runs this. The first training of a process that
is the first on a machine reads cuDNN and cuBLAS from disk: it is called cold, and stands apart. `--out` keeps the reports and writes
a folder of the form of `benches/results`.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import table


class Memory(threading.Thread):
    """The most memory that the first GPU had in use while a process ran, in MiB above what it had before; None where nothing says."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.idle = self.most = self.now()
        self.start()

    @staticmethod
    def now():
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        try:
            return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
        except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
            return None

    def run(self):
        while self.idle is not None and not self.ended.wait(0.05):
            self.most = max(self.most, self.now() or 0)

    def peak(self):
        self.ended.set()
        self.join()
        return None if self.idle is None else self.most - self.idle


def for_table(case, recipe, options, r):
    """What a row of `gpu.csv` says whoever trained; `r` has `before` and `after`."""
    figures = lambda of, suffix: {k + suffix: "" if of.get(k) is None else f"{of[k]:.2f}" for k in table.FIGURES}
    return {"model": case["name"], "recipe": recipe, "options": options, "training_s": "", "whole_s": "", "gpu_memory_mib": "",
            **figures(r.get("before", {}), "_before"), **figures(r["after"], "")}


def purify(args, case, recipe, *more):
    out = pathlib.Path(args.out)
    report = out / f"{case['name']}-{recipe}-{'-'.join(m.strip('-') for m in more) or 'default'}.json"
    command = [args.polarizer, "purify", case["model"], "-o", out / "purified.onnx", "--force", "--quiet", "--data", case["data"],
               "--preset", case.get("preset", "cifar10"), "--recipe", recipe, "--device", "cuda", "--holdout", "0",
               "--report", report, *more]
    command += ["--test", case["test"]] if "test" in case else []
    command += ["--triggered", case["triggered"], "--target", case["target"]] if "triggered" in case else []
    memory = Memory()
    began = time.time()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    wall = time.time() - began
    peak = memory.peak()
    if done.returncode != 0:
        print(f"| {case['name']} | {recipe} {' '.join(more)} | refused: {(done.stderr or done.stdout).strip()[-200:]} |")
        return None
    r = json.loads(report.read_text())
    phases = {p["name"]: p["seconds"] for p in r["phases"]}
    first = r["train"]["epochs"][0]["seconds"] if r["train"]["epochs"] else 0
    show = lambda m: " / ".join("-" if r[m].get(k) is None else f"{r[m][k]:.2f}" for k in ("acc", "asr", "ra"))
    print(f"| {case['name']} | {recipe} {' '.join(more)} | {r['settings']['precision']} | {r['train']['steps']} | "
          f"{r['train']['seconds']:.2f} | {first:.2f} | {phases.get('prepare', 0) + phases.get('train', 0):.2f} | {wall:.1f} | {'-' if peak is None else peak} | "
          f"{show('before')} | {show('after')} | "
          f"{r['train']['epochs'][0]['first_loss']:.5f} | {r['train']['epochs'][-1]['loss']:.4f} |", flush=True)
    parts = lambda of: ", ".join(f"{p['name']} {p['seconds']:.2f}" for p in of)
    print(f"    {parts(r['phases'])}; training: {parts(r['train'].get('stages', []))}")
    for o in r.get("profile", {}).get("operators", [])[:12]:
        rate = f"{o['gflops'] / 1e3:.1f} TFLOP/s" if o.get("gflops") else f"{o['gbytes']:.0f} GB/s"
        print(f"    {1e6 * o['seconds'] / max(o['calls'], 1):8.0f} us  {o['calls']:5d} calls  {rate:>15}  {o['direction']} {o['node']} ({o['operator']})")
    for o in r.get("profile", {}).get("outside", []):
        print(f"    {o['seconds']:8.3f} s  {o['share']:5.1f} %  {o['name']}")
    return {**for_table(case, recipe, " ".join(more), r), "training_s": f"{r['train']['seconds']:.2f}", "whole_s": f"{wall:.1f}",
            "gpu_memory_mib": "" if peak is None else str(peak)}


def reference(args, case, seed, *more):
    command = [sys.executable, args.reference, case["model"], "--clean", case["data"], "--site", case["site"], "--seed", str(seed),
               "--epochs", str(args.reference_epochs), *more]
    command += ["--test", case["test"]] if "test" in case else []
    command += ["--triggered", case["triggered"], "--target", "0"] if "triggered" in case else []
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.time() - began
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not rows:
        print(f"| {case['name']} | reference {' '.join(more)} | failed: {done.stderr.strip()[-200:]} |")
        return None
    after = rows[-1]
    warm = [r for r in rows if r["phase"] == "warm-up"]
    train = [r for r in rows if r["phase"] == "train"]
    print(f"| {case['name']} | reference {' '.join(more)} seed {seed} | {len(warm)} + {len(train)} epochs | {after['seconds']:.2f} s | "
          f"first epoch {warm[0]['seconds']:.2f} s | {wall:.1f} s in all | ACC / ASR / RA "
          f"{after.get('acc')} / {after.get('asr')} / {after.get('ra')} | first losses {warm[0]['first']:.5f}, {train[0]['first']:.5f} | "
          f"last epoch {train[-1]['loss']:.4f} |", flush=True)
    return {**for_table(case, "reference", " ".join(["--seed", str(seed), *more]), {"after": after}),
            "training_s": f"{after['seconds']:.2f}", "whole_s": f"{wall:.1f}"}


def graphics():
    """What the driver calls the first GPU, and its own version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", type=pathlib.Path)
    p.add_argument("--polarizer", required=True)
    p.add_argument("--tests", help="the test binary `gpu`")
    p.add_argument("--reference")
    p.add_argument("--reference-epochs", type=int, default=50)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--root", type=pathlib.Path)
    p.add_argument("--out", default=None)
    args = p.parse_args()
    args.out = args.out or tempfile.mkdtemp()
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    root = args.root or args.cases.parent
    cases = json.loads(args.cases.read_text())
    for case in cases:
        for key in ("model", "data", "test", "triggered"):
            if key in case:
                case[key] = str(root / case[key])
    if args.tests:
        models = tempfile.mkdtemp()
        for case in cases:
            os.symlink(pathlib.Path(case["model"]).resolve(), f"{models}/{case['name']}.onnx")
        env = os.environ | {"POLARIZER_MODELS": models}
        done = subprocess.run([args.tests, "--nocapture", "--test-threads", "1"], capture_output=True, text=True, env=env)
        print(done.stdout if done.returncode == 0 else done.stdout + done.stderr[-3000:])
        print(f"kernels against the processor's: {'ok' if done.returncode == 0 else 'FAILED'}\n", flush=True)
    print("| case | recipe | precision | steps | training s | of it first epoch | with preparation | whole command | "
          "GPU memory, MiB | ACC / ASR / RA before | after | first loss | last epoch's loss |")
    rows = []
    for case in cases:
        trained = [purify(args, case, recipe, "--seed", str(seed)) for seed in args.seeds for recipe in ("published", "default")]
        trained += [purify(args, case, recipe, "--precision", precision)
                    for precision in ("f32", "bf16") for recipe in ("published", "default")]
        rows += [r for r in trained if r]
        purify(args, case, "published", "--epochs", "4", "--profile")
        if args.reference and "site" in case:
            references = [reference(args, case, args.seeds[0]), *(reference(args, case, seed, "--tf32") for seed in args.seeds)]
            rows += [r for r in references if r]
    if args.out and rows:
        table.new_run(args.out, f"On a GPU: {args.cases.name}", {"gpu.csv": (rows, None, ["rows"])}, machine=graphics())


if __name__ == "__main__":
    main()
