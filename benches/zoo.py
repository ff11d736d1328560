#!/usr/bin/env python3
"""Puts every file of a zoo through the command, and tells what goes through.

    cargo build --release
    benches/zoo_models.py ZOO                                  (makes the files; any folder of ONNX files does)
    benches/zoo.py inspect ZOO [--only NAME ...] [--again bad]
    benches/zoo.py default ZOO [--limit 240] [--budget 3600]   and: published
    benches/zoo.py table ZOO > table.md

`default` and `published` purify with few images and one epoch by the recipe of that name, then ask `verify`, `revert`,
the onnx package's checker and onnxruntime. The images are the fixture's at the file's size, their labels what
onnxruntime answers to the original: ACC before must be 100, and ACC after is counted again by onnxruntime. Lines go to
ZOO/results.jsonl; what has its line is passed over (`--again all`, or `bad`: what did not go through), the last line
counts. A file goes through where purify, verify and revert end with 0, the original comes back byte for byte, the
checker and onnxruntime take the written file and ACC is the report's; with both recipes that were tried.
Needs onnx, onnxruntime, numpy, pillow.
"""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image

import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "fixtures" / "images"
MEAN, STD = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])
BYTES = ["--mean", "0", "--std", "1", "--range", "0-255"]
# how pixels in [0, 1], (N, H, W, RGB), are fed, and how the command is told
PIXELS = {"cifar10": (lambda x: (x - MEAN) / STD, ["--preset", "cifar10"]),
          "bgr": (lambda x: ((x - MEAN) / STD)[..., ::-1], ["--preset", "cifar10", "--channels", "bgr"]),
          "unit": (lambda x: x, ["--mean", "0", "--std", "1"]),
          "bytes": (lambda x: np.round(x * 255), BYTES)}
RECIPES = {"default": ["--epochs", "1", "--pool", "0", "--targets", "random"],
           "published": ["--recipe", "published", "--warmup", "1", "--epochs", "1"]}
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}


# ------------------------------------------------------------------------------------------------ files
def described(zoo):
    """Path and line of every file: those of models.jsonl, else every ONNX file with the size that it declares."""
    lines = zoo / "models.jsonl"
    if lines.exists():
        rows = {r["file"]: r for r in map(json.loads, lines.read_text().splitlines())}
        return [(zoo / "onnx" / f"{name}.onnx", row) for name, row in rows.items()]
    found = []
    for path in sorted(zoo.glob("**/*.onnx")):
        dims = [d.dim_value for d in onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim]
        last = len(dims) == 4 and dims[3] in (1, 3)
        found.append((path, {"file": path.stem, "kind": "file", "size": dims[1 if last else 2] or 32, "pixels": "cifar10",
                             "layout": "nhwc" if last else "nchw", "ok": True}))
    return found


def folder(zoo, split, size, count):
    """A flat folder of `count` of the fixture's images at that size, so that nobody has to resize."""
    made = zoo / "images" / f"{split}-{size}"
    if not made.exists():
        part = made.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for p in sorted((IMAGES / split).glob("*/*.png"), key=lambda p: (p.name, p.parent.name))[:count]:
            Image.open(p).convert("RGB").resize((size, size), Image.BILINEAR).save(part / f"{p.parent.name}-{p.name}")
        part.rename(made)
    return made


def fed(images, row, session):
    """The images as the file wants them."""
    x = np.stack([np.asarray(Image.open(p), np.float32) / 255 for p in images])
    x = PIXELS[row["pixels"]][0](x)
    x = x if row["layout"] == "nhwc" else x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x).astype(TYPES.get(session.get_inputs()[0].type, np.float32))


def opened(path, optimised=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(session, x):
    """Scores (N, classes) of the first output that can be scores."""
    port = session.get_inputs()[0]
    batch = port.shape[0] if isinstance(port.shape[0], int) else 10
    wanted = next(o.name for o in session.get_outputs() if "float" in o.type)
    made = []
    for start in range(0, len(x), batch):
        part = x[start:start + batch]
        full = np.concatenate([part, np.repeat(part[:1], batch - len(part), 0)]) if len(part) < batch else part
        made.append(session.run([wanted], {port.name: full})[0][:len(part)])
    return np.concatenate(made).astype(np.float32).reshape(len(x), -1)


# ------------------------------------------------------------------------------------------------ the command
class Command:
    def __init__(self, args):
        self.start, self.zoo, self.limit = [args.polarizer, "--threads", args.threads], args.zoo, args.limit

    def __call__(self, *arguments):
        """Exit code, or "late"; seconds; what was printed."""
        began = time.monotonic()
        with (self.zoo / "printed.txt").open("w+") as printed:
            child = subprocess.Popen([str(a) for a in (*self.start, *arguments)], stdout=printed, stderr=subprocess.STDOUT,
                                     start_new_session=True)
            try:
                code = child.wait(self.limit)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                code = "late"
            printed.seek(0)
            return code, round(time.monotonic() - began, 1), printed.read()


def short(text):
    """The error itself, or the last line."""
    text = text.strip()
    at = text.rfind("error:")
    line = text[at + 6:] if at >= 0 else text.splitlines()[-1] if text else ""
    return " ".join(line.split())[:400]


def inspect(path, row, command):
    code, seconds, text = command("inspect", path, "--json", "--size", row["size"])
    found = {"code": code, "seconds": seconds}
    try:
        j = json.loads(text)
    except ValueError:
        return found | {"message": short(text)}
    sites = j.get("sites") or []
    return found | {
        "unsupported": [o["name"] for o in j["operators"] if not o["supported"]], "sites": len(sites),
        "default": j.get("default_site"), "published": next((s for s in sites if s.get("default")), None),
        "message": j.get("sites_unknown") or (None if j.get("default_site") else "no default site"),
        "cut": cut(path, j["default_site"]["site"]) if j.get("default_site") else None}


def cut(path, site):
    """Whether every way from the input to the scores passes through the site: by the graph alone, apart from the command.
    What Shape reads is no way: nothing of the pixels comes through it."""
    graph = onnx.load(path, load_external_data=False).graph
    kind, _, name = site.partition(":")
    name, _, port = name.rpartition(":") if kind == "node" and name.rpartition(":")[2].isdigit() else (name, "", "0")
    held = {t.name for t in graph.initializer}
    reached = {i.name for i in graph.input if i.name not in held} - ({name} if kind == "value" else set())
    for node in graph.node:
        read = [i for k, i in enumerate(node.input) if (kind, node.name, k) != ("node", name, int(port))]
        if node.op_type != "Shape" and reached & set(read):
            reached |= set(node.output) - ({name} if kind == "value" else set())
    scores = next(o for o in graph.output if o.type.tensor_type.elem_type in (1, 10, 11, 16))
    return scores.name not in reached


def through(path, row, command, recipe):
    """One recipe from purify to revert."""
    zoo, size = command.zoo, row["size"]
    clean, test = folder(zoo, "clean", size, 60), folder(zoo, "test", size, 50)
    original = opened(path)
    images = sorted(test.iterdir())
    x = fed(images, row, original)
    before = answers(original, x)
    labelled, classes = labels(zoo, images, before)
    out, back, report = path.with_suffix(".purified.part"), path.with_suffix(".reverted.part"), zoo / "report.json"
    pixels = PIXELS[row["pixels"]][1] + ["--size", size]
    try:
        code, seconds, text = command("purify", path, "-o", out, "--force", "--data", clean, "--test", labelled, "--classes",
                                      classes, "--report", report, *pixels, *RECIPES[recipe], "--max-acc-drop", 100)
        found = {"purify": code, "seconds": seconds, "message": None if code == 0 else short(text)}
        if code == 0:
            found |= reported(json.loads(report.read_text()))
            found |= judged(path, out, x, before)
            code, _, text = command("verify", path, out, "--data", test, *pixels)
            found |= {"verify": code} | ({"verify_message": short(text)} if code else {})
            code, _, text = command("revert", out, "-o", back)
            found |= {"revert": code, "same": code == 0 and digest(back) == digest(path)}
        return found
    finally:
        for leftover in (out, back, report):
            leftover.unlink(missing_ok=True)


def labels(zoo, images, scores):
    """Folders of the images by what the original answers."""
    labelled, classes = zoo / "images" / "labelled", zoo / "images" / "classes.txt"
    shutil.rmtree(labelled, ignore_errors=True)
    for image, answer in zip(images, scores.argmax(1)):
        (labelled / f"c{answer:04d}").mkdir(parents=True, exist_ok=True)
        os.link(image, labelled / f"c{answer:04d}" / image.name)
    classes.write_text("".join(f"c{i:04d}\n" for i in range(scores.shape[1])))
    return labelled, classes


def reported(report):
    return {"site": report["site"], "reason": report.get("site_reason"), "shape": report.get("site_shape"),
            "before": report["before"]["acc"], "after": report["after"]["acc"], "verification": report["verification"]}


def judged(path, out, x, before):
    """What the checker and onnxruntime say of the written file."""
    found = {"checker": checked(out)}
    if found["checker"]:
        found["checker_of_original"] = checked(path)
    try:
        after = answers(opened(out), x)
        found |= {"runtime": None, "runtime_acc": round(100 * float((after.argmax(1) == before.argmax(1)).mean()), 4)}
    except Exception as error:
        found["runtime"] = short(str(error))
    return found


def checked(path):
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        return short(f"{type(error).__name__}: {error}")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ results
def fault(what, row):
    """Why a file does not go through, or None."""
    if row.get("script"):
        return f"the bench's own: {row['script']}"
    if what == "inspect":
        if row.get("unsupported"):
            return "operators: " + ", ".join(row["unsupported"])
        return row.get("message") or ("the default site is no cut" if row.get("cut") is False else None)
    if row["purify"] == "late":
        return f"purify: not within {row['seconds']:.0f} s"
    if row["purify"] != 0:
        return f"purify ({row['purify']}): {row['message']}"
    if row["checker"] and not row.get("checker_of_original"):
        return f"checker: {row['checker']}"
    if row["runtime"]:
        return f"onnxruntime: {row['runtime']}"
    if row["before"] != 100:
        return f"ACC before is {row['before']}, onnxruntime's own answers as labels"
    if abs(row["runtime_acc"] - row["after"]) > 1e-3:
        return f"ACC after: the report says {row['after']}, onnxruntime {row['runtime_acc']}"
    if row["verify"] != 0:
        return f"verify ({row['verify']}): {row['verify_message']}"
    return None if row["same"] else "the original does not come back"


def results(zoo):
    """(file, what): the last line."""
    lines = zoo / "results.jsonl"
    rows = map(json.loads, lines.read_text().splitlines()) if lines.exists() else []
    return {(r["file"], r["what"]): r for r in rows}


def work(args):
    done, command, began = results(args.zoo), Command(args), time.monotonic()
    # small files first: a budget of time then tries most of them
    files = sorted(described(args.zoo), key=lambda item: item[0].stat().st_size if item[0].exists() else 0)
    for path, row in files:
        key = (row["file"], args.command)
        known = done.get(key)
        again = args.again == "all" or args.again == "bad" and known and fault(args.command, known)
        if not row["ok"] or known and not again or args.only and not row["file"].startswith(tuple(args.only)):
            continue
        if args.command != "inspect" and (hw(row["file"]) or not (done.get((row["file"], "inspect")) or {}).get("default")):
            continue
        if time.monotonic() - began > args.budget:
            break
        try:
            found = inspect(path, row, command) if args.command == "inspect" else through(path, row, command, args.command)
        except Exception as error:
            found = {"script": f"{type(error).__name__}: {error}"[:300]}
        found = {"file": row["file"], "what": args.command} | found
        with (args.zoo / "results.jsonl").open("a") as f:
            f.write(json.dumps(found) + "\n")
        print(row["file"], fault(args.command, found) or place(found) or "ok", flush=True)


def hw(name):
    """Files with free height and width are there for their sites alone: the same networks stand beside them."""
    return name.startswith("v_hw_")


def place(found):
    site = found.get("default") or ({"site": found["site"], "shape": found.get("shape")} if "site" in found else None)
    return site and f"{site['site']} {'x'.join(map(str, site.get('shape') or []))}".strip()


def share(found):
    """The share of the multiplications behind the default site, in percent."""
    value = (found.get("default") or {}).get("behind")
    return "" if value is None else f"{value:.0f} %"


def told(name, rows):
    """One line of the table: `rows` by what was done."""
    faults = {what: fault(what, r) for what, r in rows.items()}
    why = "; ".join(dict.fromkeys(f for f in faults.values() if f)).replace("|", "/")
    tried = [what for what in RECIPES if what in rows]
    verdict = why[:220] or ("yes" if tried else "loads" if hw(name) else "loads, not tried")
    published = (rows.get("published") or {}).get("site") or (rows["inspect"].get("published") or {}).get("site") or ""
    seconds = " / ".join(f"{rows[what]['seconds']:.0f}" for what in tried if "seconds" in rows[what])
    return {"file": name, "goes through": verdict, "default site": place(rows["inspect"]) or "",
            "behind it": share(rows["inspect"]), "published site": published, "seconds": seconds}, \
        {"load": not faults["inspect"], "tried": bool(tried), "through": bool(tried) and not why, "why": why}


def tables(zoo):
    """(files, counts by kind, operators in the way, other reasons), each a list of rows."""
    done, files, counts = results(zoo), [], {}
    blockers, alone, reasons = collections.defaultdict(list), collections.Counter(), collections.Counter()
    for _, row in described(zoo):
        name = row["file"]
        rows = {what: done[name, what] for what in ("inspect", *RECIPES) if (name, what) in done}
        if not row["ok"] or "inspect" not in rows:
            continue
        line, seen = told(name, rows)
        files.append(line)
        kind = counts.setdefault(row["kind"], {"kind": row["kind"], "files": 0, "load": 0, "tried": 0, "through": 0})
        kind["files"] += 1
        for key in ("load", "tried", "through"):
            kind[key] += seen[key]
        unsupported = rows["inspect"].get("unsupported") or []
        for operator in unsupported:
            blockers[operator].append(name)
            alone[operator] += len(unsupported) == 1
        if seen["why"] and not unsupported:
            reasons[re.sub(r'"[^"]*"|\d[\d.e-]*', "…", seen["why"])[:160]] += 1
    operators = [{"operator": o, "files": len(n), "alone": alone[o], "which": ", ".join(n[:12])}
                 for o, n in sorted(blockers.items(), key=lambda item: -len(item[1]))]
    return files, list(counts.values()), operators, [{"files": n, "reason": r} for r, n in reasons.most_common()]


def show(args):
    named = dict(zip(("files", "counts", "operators", "reasons"), tables(args.zoo)))
    for name, rows in named.items():
        text = [{k: str(v) for k, v in row.items()} for row in rows]
        if args.out and rows:
            args.out.mkdir(parents=True, exist_ok=True)
            table.write(args.out / f"{name}.csv", text)
        elif rows:
            print(table.rows_view(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True, dest="command")
    for name in ("inspect", "default", "published"):
        p = sub.add_parser(name)
        p.add_argument("zoo", type=pathlib.Path)
        p.add_argument("--polarizer", type=pathlib.Path, default=ROOT / "target" / "release" / "polarizer")
        p.add_argument("--only", nargs="*", help="names or beginnings of names")
        p.add_argument("--again", choices=["bad", "all"])
        p.add_argument("--threads", type=int, default=1)
        p.add_argument("--limit", type=float, default=240, help="seconds that one command may take")
        p.add_argument("--budget", type=float, default=1e9, help="seconds after which no further file is begun")
        p.set_defaults(run=work)
    t = sub.add_parser("table")
    t.add_argument("zoo", type=pathlib.Path)
    t.add_argument("--out", type=pathlib.Path, help="a folder for CSV files instead, as in results/")
    t.set_defaults(run=show)
    arguments = parser.parse_args()
    arguments.run(arguments)
