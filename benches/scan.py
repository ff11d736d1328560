#!/usr/bin/env python3
"""`polarizer scan` over networks with and without a backdoor: is the trigger's class the one that stands out, and how high do
networks without one come?

    python benches/scan.py CASES ROOT [--polarizer target/release/polarizer] [--only NAME ...] [--purified] [--out FOLDER]
                           [--calibrate] [-- more options of scan]

CASES as `quality.py` takes it; a case without `target` has no backdoor. Prints a row a network (the score of the trigger's class, or of
the highest, by each way that the report names) and, of those without a backdoor, the sorted highest scores: the calibration of `scan`.
`--purified` purifies each network by the default recipe and scans what was written too, with the attack's success before and
after: does the score follow it? `scattered` is what tells all to all: the share of the answers that one small block scatters over
several classes. `--out` writes a folder of the form of `benches/results`. `--calibrate` prints nothing but
`src/scan/calibration.csv` anew, of the cases without a backdoor: a row a network, a column a way.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import table


def scan(args, model, case, folder):
    """What the command says of this file."""
    report = folder / "scan.json"
    subprocess.run([args.polarizer, "scan", model, "--data", args.root / case["data"], "--preset", "cifar10", "--quiet",
                    "--report", report, *args.extra], check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def purify(args, case, folder):
    """The file it writes, and its ASR before and after, None where there is none."""
    out, report = folder / "purified.onnx", folder / "purify.json"
    attack = ["--triggered", args.root / case["triggered"], "--target", case["target"]] if "target" in case else []
    subprocess.run([args.polarizer, "purify", args.root / case["model"], "-o", out, "--data", args.root / case["data"],
                    "--test", args.root / case["test"], "--preset", "cifar10", "--quiet", "--report", report, *attack],
                   check=True, stdout=subprocess.DEVNULL)
    said = json.loads(report.read_text())
    return out, [said[when].get("asr") for when in ("before", "after")]


def row_of(name, file, said, target, asr):
    """A scan as a row of `scan.csv`, and the class with the highest score."""
    scores, classes = said["scores"], said["data"]["classes"]
    top = max(range(len(scores)), key=scores.__getitem__)
    shown = top if target is None else target
    others = max(s for c, s in enumerate(scores) if c != shown)
    row = {"case": name, "file": file, "class": classes[shown],
           **{way: f"{of[shown]:.1f}" for way, of in said["ways"].items()},
           "highest": f"{scores[top]:.2f}", "highest_other": f"{others:.1f}", "scattered": f"{said['scattered']:.1f}",
           "asr": "" if asr is None else f"{asr:.1f}"}
    return row, top


def calibration(clean):
    """The table of networks without a backdoor, from (case, report) pairs."""
    ways = list(clean[0][1]["ways"])
    lines = ["# Networks without a backdoor, scanned at the site of `site::preferred`. most: the highest score of any class by any way.",
             "# A column a way: the highest score of any class by that way. Written by `benches/scan.py --calibrate`.",
             ",".join(["network", "family", "most", *ways])]
    for case, said in clean:
        family = case["model"].split("/")[0].split("-")[0]
        lines.append(",".join([case["name"], family, *(f"{max(s):.2f}" for s in (said["scores"], *(said["ways"][w] for w in ways)))]))
    return "\n".join(lines)


def show(row, header):
    if header:
        print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
    print("| " + " | ".join(row.values()) + " |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", type=pathlib.Path)
    p.add_argument("root", type=pathlib.Path)
    p.add_argument("--polarizer", default="target/release/polarizer")
    p.add_argument("--only", nargs="*")
    p.add_argument("--purified", action="store_true")
    p.add_argument("--out", type=pathlib.Path, help="a folder of the form of benches/results")
    p.add_argument("--calibrate", action="store_true")
    # argparse takes positional arguments in one stretch: what follows -- is for the tool
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = p.parse_args(sys.argv[1:end])
    args.extra = sys.argv[end + 1:]
    rows, hits, backdoored, without, scattered, clean = [], 0, 0, [], [], []
    for case in json.loads(args.cases.read_text()):
        if (args.only and case["name"] not in args.only) or (args.calibrate and "target" in case):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            said = scan(args, args.root / case["model"], case, folder)
            if args.calibrate:
                clean.append((case, said))
                continue
            classes = said["data"]["classes"]
            target = classes.index(case["target"]) if case.get("target") in classes else None
            purified, asr = purify(args, case, folder) if args.purified else (None, [None, None])
            row, top = row_of(case["name"], "original", said, target, asr[0])
            show(row, not rows)
            rows.append(row)
            if purified:
                rows.append(row_of(case["name"], "purified", scan(args, purified, case, folder), target, asr[1])[0])
                show(rows[-1], False)
        if "target" not in case:
            without.append(max(said["scores"]))
            scattered.append(said["scattered"])
        elif target is not None:
            backdoored += 1
            hits += top == target
    if args.calibrate:
        print(calibration(clean))
        return
    print(f"\nthe trigger's class has the highest score in {hits} of {backdoored}")
    if without:
        print("highest scores without a backdoor:", ", ".join(f"{s:.2f}" for s in sorted(without)))
        print("scattered there, in percent:", ", ".join(f"{s:.1f}" for s in sorted(scattered)))
    if args.out:
        table.new_run(args.out, f"Scan of {args.cases.name}", {"scan.csv": (rows, None, ["rows"])})


if __name__ == "__main__":
    main()
