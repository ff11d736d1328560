#!/usr/bin/env python3
"""The tables of benches/results: written from the raw data beside them, and the folder of a new run.

    python benches/table.py [FOLDER ...]      rewrites the generated blocks of each FOLDER/README.md
    python benches/table.py --check           fails where a block is not what its data gives

Without a FOLDER all of benches/results are taken. A block stands between two comments:

    <!-- table: FILE.csv [VIEW] [except=CASE,CASE] -->
    <!-- end -->

VIEW is `rows` (the file as it is, the default), `cases` (one row a case, one column for each recipe, number of images
and seed) or `means` (over the attacks, from an ASR of 90 on before, of each recipe and number of images; cases without
a trigger apart). A run that `quality.py`, `scan.py`, `side_by_side.py` or `gpu.py` writes with `--out` has the same form.
"""
import argparse
import csv
import datetime
import io
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- table: ([^>]*?) -->\n).*?(<!-- end -->)", re.S)
FIGURES = ("acc", "asr", "ra")
QUALITY = ["case", "recipe", "images", "seed", "acc_before", "asr_before", "ra_before", "acc", "asr", "ra", "der", "note"]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows, columns=None):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def markdown(header, rows):
    """A table; columns that hold numbers alone are aligned to the right."""
    is_number = [all(re.fullmatch(r"[-+]?[\d,.]*", row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("--:" if n else "---" for n in is_number) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def rows_view(rows):
    return markdown(list(rows[0]), [[v or "" for v in row.values()] for row in rows])


def figures(row, suffix=""):
    values = [row[key + suffix] for key in FIGURES]
    return " / ".join(v or "-" for v in values) if any(values[1:]) else values[0]


def cases_view(rows):
    runs = list(dict.fromkeys((r["recipe"], r["images"], r["seed"]) for r in rows))
    name = lambda recipe, images, seed: f"{recipe}, {images} images" + (f", seed {seed}" if seed.isdigit() else f", {seed}" if seed else "")
    table = {}
    for r in rows:
        table.setdefault(r["case"], {})[r["recipe"], r["images"], r["seed"]] = r
    out = []
    for case, of in table.items():
        notes = {r["note"] for r in of.values()}
        common = notes.pop() if len(notes) == 1 else ""
        own = lambda r: f" ({r['note']})" if r["note"] and r["note"] != common else ""
        ders = [r["der"] for r in of.values() if r["der"]]
        out.append([f"{case} ({common})" if common else case, figures(next(iter(of.values())), "_before"),
                    *("" if r is None else figures(r) + own(r) for r in map(of.get, runs)), ", ".join(ders)])
    return markdown(["case", "before", *(name(*run) for run in runs), "DER"], out)


def der(row):
    """From the figures themselves, in percent."""
    lost = lambda key: max(0.0, float(row[key + "_before"]) - float(row[key]))
    return (lost("asr") - lost("acc") + 100) / 2


def means_view(rows):
    of = lambda rows, f: [f(r) for r in rows]
    lost = lambda r: float(r["acc_before"]) - float(r["acc"])
    out = []
    for recipe, images in dict.fromkeys((r["recipe"], r["images"]) for r in rows):
        mine = [r for r in rows if (r["recipe"], r["images"]) == (recipe, images) and r["acc"]]
        hit = [r for r in mine if r["asr_before"] and float(r["asr_before"]) >= 90 and r["ra"]]
        clean = [r for r in mine if not r["asr_before"]]
        mean = lambda rows, f: statistics.mean(of(rows, f)) if rows else None
        most = lambda rows, f: max(of(rows, f)) if rows else None
        number = lambda v, digits: "" if v is None else f"{v:.{digits}f}"
        out.append([recipe, images, str(len(hit)), number(mean(hit, der), 1), number(mean(hit, lambda r: float(r["asr"])), 1),
                    number(most(hit, lambda r: float(r["asr"])), 1), number(mean(hit, lost), 2), number(most(hit, lost), 2),
                    number(mean(hit, lambda r: float(r["ra"])), 1), number(mean(clean, lost), 2), number(most(clean, lost), 2)])
    return markdown(["recipe", "images", "rows on attacks", "DER", "ASR", "worst ASR", "ACC lost", "most lost", "RA",
                     "clean networks lose", "at most"], out)


VIEWS = {"rows": rows_view, "cases": cases_view, "means": means_view}


def block(folder, words):
    file, *options = words.split()
    rows = read(folder / file)
    view = "rows"
    for option in options:
        if option.startswith("except="):
            left_out = option.removeprefix("except=").split(",")
            rows = [r for r in rows if r["case"] not in left_out]
        else:
            view = option
    return VIEWS[view](rows)


def generated(folder):
    """The text of README.md as it should be."""
    text = (folder / "README.md").read_text()
    return BLOCK.sub(lambda m: m[1] + block(folder, m[2]) + m[3], text)


def git(*words):
    try:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor():
    """What the operating system calls the processor."""
    try:
        names = re.findall(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {len(names) or '?'} threads"


def new_run(out, title, tables, machine=None):
    """Writes a folder of a run. `tables`: file name -> (rows, columns, views)."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    command = "python " + shlex.join([str(pathlib.Path(sys.argv[0])), *sys.argv[1:]])
    print(f"# {title}\n\n- Date: {datetime.date.today().isoformat()}\n- Machine: {machine or processor()}\n- Commit: {git('describe', '--always', '--dirty')}\n"
          f"- Command: `{command}`\n", file=text)
    for name, (rows, columns, views) in tables.items():
        write(out / name, rows, columns)
        for view in views:
            print(f"<!-- table: {name} {view} -->\n<!-- end -->\n", file=text)
    (out / "README.md").write_text(text.getvalue())
    (out / "README.md").write_text(generated(out))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*", type=pathlib.Path)
    p.add_argument("--check", action="store_true")
    args = p.parse_args()
    stale = []
    for folder in args.folders or sorted(f.parent for f in (HERE / "results").glob("*/README.md")):
        text = generated(folder)
        if text != (folder / "README.md").read_text():
            stale.append(str(folder))
            if not args.check:
                (folder / "README.md").write_text(text)
    if args.check and stale:
        raise SystemExit("not what the data gives: " + ", ".join(stale))


if __name__ == "__main__":
    main()
