#!/usr/bin/env python3
"""How well recipes do: models x attacks x seeds x numbers of clean images, each through the real command.

    cargo build --release
    python benches/quality.py CASES.json [--recipes published default] [--seeds 0 1 2] [--images 2500 500]
                              [--root DIR] [--only TEXT] [--json FILE] [--plot FILE.svg] [--out FOLDER] [-- MORE OPTIONS]

CASES.json is a list of objects: `name`, `model` (ONNX), `data` (clean images), `test`, and for a backdoored model
`triggered` and `target`; `site` and `preset` (cifar10) where they are not the default. Relative paths start at
--root, or at the file. `cases_search.json` beside this are those that settings were chosen by, `cases_report.json` others,
with images of their own. Models named ARCH-ATTACK-SEED come from `examples/backdoors.py train DATA ROOT/ARCH-ATTACK-SEED --attack ATTACK
--arch ARCH --seed SEED`, images from `examples/backdoors.py images DATA ROOT/search --seed 51 --trigger ... --attacks ...` and
`... images DATA ROOT/report --besides ROOT/search --seed 85 ...`; models/ and images/ are given ones. Clean images are
taken class by class in equal numbers, the first of each class by name; of them the command holds out its own share. ACC, ASR, RA and DER are those that the command measures, after from the written file.

Prints every run (a refused one too), then mean and worst of each recipe and size; the highest DER that a case allows
(all of its ASR gone, no ACC lost) stands beside. A case counts as an attack only from an ASR of 90 on before.
`--out` writes a folder of the form of `benches/results`: the runs as CSV, the tables generated from it by `table.py`.
Needs nothing but Python, and matplotlib for the plot.
"""
import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import table
from curves import subset

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(args, case, data, recipe, seed, folder):
    """The report of one command, or why there is none."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [args.polarizer, "purify", case["model"], "-o", folder / "purified.onnx", "--force", "--quiet",
               "--data", data, "--test", case["test"], "--preset", case.get("preset", "cifar10"), "--recipe", recipe,
               "--seed", seed, "--report", report]
    if "triggered" in case:
        command += ["--triggered", case["triggered"], "--target", case["target"]]
    if "site" in case:
        command += ["--site", case["site"]]
    began = time.monotonic()
    done = subprocess.run([str(c) for c in command + args.extra], capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        return {"seconds": seconds, "error": done.stderr.strip().splitlines()[-1]}
    r = json.loads(report.read_text())
    return {"seconds": seconds, "before": r["before"], "after": r["after"], "der": r["der"], "guard": r.get("guard")}


def summary(rows, recipe, images):
    """Mean and worst over the attacks, and what clean models lose."""
    rows = [r for r in rows if (r["recipe"], r["images"]) == (recipe, images)]
    failed = sum("error" in r for r in rows)
    rows = [r for r in rows if "error" not in r]
    attacked = [r for r in rows if r["before"]["asr"] is not None and r["before"]["asr"] >= 90]
    clean = [r for r in rows if r["before"]["asr"] is None]
    lost = lambda r: r["before"]["acc"] - r["after"]["acc"]
    text = f"{recipe}, {images} images: {len(rows)} runs, {failed} refused"
    if attacked:
        asr = [r["after"]["asr"] for r in attacked]
        text += (f"; {len(attacked)} on attacks: DER mean {statistics.mean(r['der'] for r in attacked):.1f}, ASR mean "
                 f"{statistics.mean(asr):.1f} worst {max(asr):.1f}, ACC lost mean {statistics.mean(map(lost, attacked)):.2f} "
                 f"worst {max(map(lost, attacked)):.2f}, RA mean {statistics.mean(r['after']['ra'] for r in attacked):.1f}")
    if clean:
        text += f"; clean models lose {statistics.mean(map(lost, clean)):.2f}, at most {max(map(lost, clean)):.2f}"
    print(text)


def for_table(row):
    """A run as a row of `quality.csv`."""
    digits = lambda of, key, n: "" if of.get(key) is None else f"{of[key]:.{n}f}"
    before, after = row.get("before", {}), row.get("after", {})
    guard = f"guarded at {100 * row['guard']['share']:.0f} %" if row.get("guard") else ""
    return {**{k: str(row[k]) for k in ("case", "recipe", "images", "seed")},
            **{f"{k}_before": digits(before, k, 2) for k in table.FIGURES}, **{k: digits(after, k, 2) for k in table.FIGURES},
            "der": digits(row, "der", 1), "seconds": digits(row, "seconds", 1), "note": row.get("error", guard)}


def plot(path, rows):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(6, 4), constrained_layout=True)
    rows = [r for r in rows if "error" not in r and r["before"]["asr"] is not None]
    for recipe, images in dict.fromkeys((r["recipe"], r["images"]) for r in rows):
        mine = [r for r in rows if (r["recipe"], r["images"]) == (recipe, images)]
        axis.scatter([r["before"]["acc"] - r["after"]["acc"] for r in mine], [r["after"]["asr"] for r in mine],
                     label=f"{recipe}, {images} images", alpha=0.7)
    axis.set_xlabel("points of ACC lost")
    axis.set_ylabel("ASR after, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", type=pathlib.Path)
    p.add_argument("--recipes", nargs="+", default=["published", "default"])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--images", nargs="+", type=int, default=[2500])
    p.add_argument("--root", type=pathlib.Path, help="where relative paths start")
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--polarizer", type=pathlib.Path, default=ROOT / "target/release/polarizer")
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--plot", type=pathlib.Path)
    p.add_argument("--out", type=pathlib.Path, help="a folder of the form of benches/results")
    # argparse takes positional arguments in one stretch: what follows -- is for the tool
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = p.parse_args(sys.argv[1:end])
    args.extra = sys.argv[end + 1:]
    if args.plot:
        import matplotlib  # noqa: F401, so that a missing one is found before the work
    cases = [c for c in json.loads(args.cases.read_text()) if args.only in c["name"]]
    for case in cases:
        for key in ("model", "data", "test", "triggered"):
            if key in case:
                case[key] = ((args.root or args.cases.parent) / case[key]).resolve()
    rows = []
    percent = lambda v: "-" if v is None else f"{v:.2f}"
    print("| case | recipe | images | seed | ACC | ASR | RA | DER (most) | s | |\n"
          "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for images, case, recipe, seed in itertools.product(args.images, cases, args.recipes, args.seeds):
            data = folder / f"{case['name']}-{images}"
            if not data.exists():
                subset(case["data"], images, data)
            row = {"case": case["name"], "recipe": recipe, "images": images, "seed": seed,
                   **run(args, case, data, recipe, seed, folder)}
            rows.append(row)
            start = f"| {row['case']} | {recipe} | {images} | {seed} |"
            if "error" in row:
                print(f"{start} | | | | {row['seconds']:.1f} | {row['error']} |", flush=True)
                continue
            b, a = row["before"], row["after"]
            change = " | ".join(f"{percent(b[k])} → {percent(a[k])}" for k in ("acc", "asr", "ra"))
            most = "-" if b["asr"] is None else f"{row['der']:.1f} ({50 + b['asr'] / 2:.1f})"
            guard = f"guard {row['guard']['share']}" if row["guard"] else ""
            print(f"{start} {change} | {most} | {row['seconds']:.1f} | {guard} |", flush=True)
    for recipe, images in itertools.product(args.recipes, args.images):
        summary(rows, recipe, images)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(args.plot, rows)
    if args.out:
        columns = [*table.QUALITY[:-1], "seconds", "note"]
        table.new_run(args.out, f"What recipes do to {args.cases.name}", {
            "quality.csv": ([for_table(r) for r in rows], columns, ["cases", "means"])})


if __name__ == "__main__":
    main()
