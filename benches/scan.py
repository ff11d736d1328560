#!/usr/bin/env python3
"""`polarizer scan` over networks with and without a backdoor: is the trigger's class the one that stands out, and how high do
networks without one come?

    python benches/scan.py CASES ROOT [--polarizer target/release/polarizer] [--only NAME ...] [-- more options of the command]

CASES as `quality.py` takes it; a case without `target` has no backdoor. Prints a row a network and, of those without a backdoor,
the sorted highest scores: they stand in `src/train/calibration.rs`.
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
args = parser.parse_args(own)

without, hits, backdoored = [], 0, 0
print("| case | class | added | bent | stamped | values | the highest other class |")
print("| --- | --- | --: | --: | --: | --: | --: |")
for case in json.loads(args.cases.read_text()):
    if args.only and case["name"] not in args.only:
        continue
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "scan.json"
        subprocess.run([args.polarizer, "scan", args.root / case["model"], "--data", args.root / case["data"], "--preset", "cifar10",
                        "--quiet", "--report", report, *more], check=True, stdout=subprocess.DEVNULL)
        said = json.loads(report.read_text())
    scores, classes = said["scores"], said["data"]["classes"]
    top = max(range(len(scores)), key=scores.__getitem__)
    target = classes.index(case["target"]) if case.get("target") in classes else None
    shown = top if target is None else target
    row = " | ".join(f"{said['ways'][way][shown]:.1f}" for way in ("added", "bent", "stamped", "values"))
    print(f"| {case['name']} | {classes[shown]} | {row} | {max(s for c, s in enumerate(scores) if c != shown):.1f} |", flush=True)
    if "target" not in case:
        without.append(scores[top])
    elif target is not None:
        backdoored += 1
        hits += top == target
print(f"\nthe trigger's class has the highest score in {hits} of {backdoored}")
print("highest scores without a backdoor:", ", ".join(f"{s:.2f}" for s in sorted(without)))
