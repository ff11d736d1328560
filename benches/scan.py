#!/usr/bin/env python3
"""`polarizer scan` over networks with and without a backdoor: is the trigger's class the one that stands out, and how high do
networks without one come?

    python benches/scan.py CASES ROOT [--polarizer target/release/polarizer] [--only NAME ...] [--purified] [-- more options of scan]

CASES as `quality.py` takes it; a case without `target` has no backdoor. Prints a row a network and, of those without a backdoor,
the sorted highest scores: they stand in `src/train/calibration.rs`. `--purified` purifies each network by the default recipe and
scans what was written too, with the attack's success before and after: does the score follow it? `scattered` is what tells all to
all: the share of the answers that one small block scatters over several classes.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

own, more = (sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]) if "--" in sys.argv else (sys.argv[1:], [])
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cases", type=pathlib.Path)
parser.add_argument("root", type=pathlib.Path)
parser.add_argument("--polarizer", default="target/release/polarizer")
parser.add_argument("--only", nargs="*")
parser.add_argument("--purified", action="store_true")
args = parser.parse_args(own)


def path(case, key):
    return str(args.root / case[key])


def scan(model, case, folder):
    """What the command says of this file."""
    report = folder / "scan.json"
    subprocess.run([args.polarizer, "scan", model, "--data", path(case, "data"), "--preset", "cifar10", "--quiet",
                    "--report", report, *more], check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def purify(case, folder):
    """The file it writes, and its ASR before and after, None where there is none."""
    out, report = folder / "purified.onnx", folder / "purify.json"
    attack = ["--triggered", path(case, "triggered"), "--target", case["target"]] if "target" in case else []
    subprocess.run([args.polarizer, "purify", path(case, "model"), "-o", out, "--data", path(case, "data"), "--test", path(case, "test"),
                    "--preset", "cifar10", "--quiet", "--report", report, *attack], check=True, stdout=subprocess.DEVNULL)
    said = json.loads(report.read_text())
    return out, [said[when].get("asr") for when in ("before", "after")]


def row(name, said, target, asr):
    scores, classes = said["scores"], said["data"]["classes"]
    top = max(range(len(scores)), key=scores.__getitem__)
    shown = top if target is None else target
    ways = " | ".join(f"{said['ways'][way][shown]:.1f}" for way in ("added", "bent", "filtered", "stamped", "values"))
    others = max(s for c, s in enumerate(scores) if c != shown)
    success = f" {asr:.1f} |" if asr is not None else " - |" if args.purified else ""
    print(f"| {name} | {classes[shown]} | {ways} | {others:.1f} | {said['scattered']:.1f} |{success}", flush=True)
    return top, scores[top]


without, scattered, hits, backdoored = [], [], 0, 0
print("| case | class | added | bent | filtered | stamped | values | the highest other class | scattered, % |" + (" ASR |" if args.purified else ""))
print("| --- | --- | --: | --: | --: | --: | --: | --: | --: |" + (" --: |" if args.purified else ""))
for case in json.loads(args.cases.read_text()):
    if args.only and case["name"] not in args.only:
        continue
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        said = scan(path(case, "model"), case, folder)
        classes = said["data"]["classes"]
        target = classes.index(case["target"]) if case.get("target") in classes else None
        purified, asr = purify(case, folder) if args.purified else (None, [None, None])
        top, most = row(case["name"], said, target, asr[0])
        if purified:
            row("purified", scan(purified, case, folder), target, asr[1])
    if "target" not in case:
        without.append(most)
        scattered.append(said["scattered"])
    elif target is not None:
        backdoored += 1
        hits += top == target
print(f"\nthe trigger's class has the highest score in {hits} of {backdoored}")
if without:
    print("highest scores without a backdoor:", ", ".join(f"{s:.2f}" for s in sorted(without)))
    print("scattered there, in percent:", ", ".join(f"{s:.1f}" for s in sorted(scattered)))
