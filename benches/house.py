#!/usr/bin/env python3
"""Counts of the source: circles of imports, long functions, functions of many arguments, conditions on features, lines,
README's words.

    benches/house.py [--root DIR] [--list]
    benches/house.py --before DIR > numbers.csv      of a checkout of an older commit and of this one, side by side

A circle is a set of files of src each of which needs, directly or through others, all others: by `use` or by a path in
its code, re-exports followed to the file that owns the name, tests and what is only re-exported left out. Counted a
second time, a module's file also needs those of its submodules that it calls by their name (`json::render(..)`).
"""

import argparse
import csv
import pathlib
import re
import sys

LONG = 60
MANY = 8
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))? )?use ([^;]+);", re.M)
PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")


def without_tests(text: str) -> str:
    """A source file up to its tests."""
    return re.split(r"\n#\[cfg\(test\)\]\nmod \w+ \{", text)[0]


def functions(text: str):
    """(line, name, lines, arguments) of each function with a body."""
    for match in re.finditer(r"^[ \t]*(?:pub(?:\([^)]*\))? )?(?:const )?(?:unsafe )?fn (\w+)", text, re.M):
        at, depth = match.end(), 0
        arguments, generics = 0, 0
        while at < len(text) and text[at] != "(":
            at += 1
        start = at
        while at < len(text):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
            if depth == 0:
                break
        inside, depth, word = text[start + 1 : at - 1], 0, False
        for c, before in zip(inside, " " + inside):
            if c in "([{<":
                depth += 1
            elif c in ")]}" or (c == ">" and before != "-"):
                depth -= 1
            elif c == "," and depth == 0:
                arguments, word = arguments + word, False
            elif c.isalnum():
                word = True
        arguments += word
        while at < len(text) and text[at] not in "{;":
            at += 1
        if at >= len(text) or text[at] == ";":
            continue
        first, depth = text.count("\n", 0, match.start()) + 1, 0
        while at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
            if depth == 0:
                break
        lines = text.count("\n", match.start(), at) + 1
        yield first + (text[match.start()] == "\n"), match.group(1), lines, arguments


def modules(src: pathlib.Path) -> dict:
    """The code of each module that has a file, by its path: ("ops", "call"). Without tests and comments."""
    found = {}
    for path in sorted(src.rglob("*.rs")):
        if path.stem.endswith("tests") or path == src / "main.rs":
            continue
        parts = path.relative_to(src).with_suffix("").parts
        text = re.sub(r"//[^\n]*", "", without_tests(path.read_text()))
        text = re.sub(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?use [^;]+;", "", text)
        found[parts[:-1] if parts[-1] in ("mod", "lib") else parts] = text
    return found


def imported(tree: str):
    """The paths of a `use` and the name that each gets: `a::{b, c as d}` gives (a, b), b and (a, c), d."""
    head, brace, inside = tree.partition("{")
    if not brace:
        words = [word.strip() for word in tree.split(" as ")[0].split("::")]
        yield words, tree.split(" as ")[-1].split("::")[-1].strip()
        return
    before, depth, part = [word.strip() for word in head.split("::") if word.strip()], 0, ""
    for c in inside[: inside.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(c, 0)
        if c != "," or depth:
            part += c
            continue
        for words, name in imported(part.strip()) if part.strip() else []:
            yield before + words, name
        part = ""


def absolute(files: dict, module: tuple, words: list):
    """A path from the crate's root; None where it leads to another crate."""
    if words[0] == "crate":
        return tuple(words[1:])
    if words[0] in ("self", "super"):
        up = words.count("super")
        return module[: len(module) - up] + tuple(word for word in words if word not in ("self", "super"))
    return module + tuple(words) if module + (words[0],) in files else None


def needs(files: dict, submodules: bool) -> dict:
    """For each module those that it needs."""
    exported = {}
    for module, text in files.items():
        for words, name in (leaf for public, tree in USE.findall(text) if public for leaf in imported(tree)):
            exported[module + (name,)] = absolute(files, module, words)

    def owner(path: tuple, steps: int = 8) -> tuple:
        # the files of the module `internals` lie beside it
        path = tuple(word for word in path if word not in ("self", "*", "internals"))
        known = max(n for n in range(len(path) + 1) if path[:n] in files)
        through = exported.get(path[: known + 1]) if steps and known < len(path) else None
        return owner(through + path[known + 1 :], steps - 1) if through else path[:known]

    found = {}
    for module, text in files.items():
        code = USE.sub("", text)
        paths = [words for public, tree in USE.findall(text) if not public for words, _ in imported(tree)]
        paths += [path.split("::") for path in PATH.findall(code)]
        if submodules:
            children = re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);", text, re.M)
            paths += [["self", child] for child in children if re.search(rf"(?<![:\w]){child}::\w", code)]
        targets = {owner(path) for words in paths if (path := absolute(files, module, words)) is not None}
        found[module] = sorted(targets - {module, ()})
    return found


def circles(edges: dict) -> list:
    """The sets of modules that need each other: the strongly connected components (R. Tarjan, 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            if len(stack) > at + 1:
                found.append(", ".join(sorted("/".join(member) for member in stack[at:])))
            del stack[at:]

    for module in edges:
        if module not in index:
            visit(module)
    return sorted(found)


def count(root: pathlib.Path):
    """The counts of a checkout by name, and what is behind them, a line each."""
    long, many, conditions, lines, code, tests = [], [], 0, 0, 0, 0
    for path in sorted((root / "src").rglob("*.rs")):
        whole = path.read_text()
        text = "" if path.stem.endswith("tests") else without_tests(whole)
        tests += whole.count("\n") - text.count("\n")
        if not text:
            continue
        own = [line for line in text.split("\n") if line.strip()]
        lines += len(text.split("\n"))
        code += sum(not line.strip().startswith("//") for line in own)
        conditions += len(re.findall(r'cfg!?\([^\n]*feature = "cuda"', text))
        for line, name, length, arguments in functions(text):
            place = f"{path.relative_to(root)}:{line} {name}"
            if length > LONG:
                long.append(f"{place}: {length} lines")
            if arguments >= MANY:
                many.append(f"{place}: {arguments} arguments")
    tests += sum(path.read_text().count("\n") for path in (root / "tests").rglob("*.rs"))
    files = modules(root / "src")
    apart, together = (circles(needs(files, submodules)) for submodules in (False, True))
    counts = {
        "circles of imports": len(apart),
        "with calls of a module's file into its submodules": len(together),
        f"functions over {LONG} lines": len(long),
        f"functions of {MANY} arguments and more": len(many),
        'conditions on feature = "cuda"': conditions,
        "lines of src without tests": lines,
        "of these neither blank nor comment": code,
        "lines of tests": tests,
        "README's words": len((root / "README.md").read_text().split()),
    }
    more = [f"with submodules: {circle}" for circle in together if circle not in apart]
    return counts, [*(f"circle: {circle}" for circle in apart), *more, *long, *many]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parents[1], type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="name the circles, the long functions, those of many arguments")
    parser.add_argument("--before", type=pathlib.Path, help="another checkout: its counts and these, as CSV")
    args = parser.parse_args()
    counts, named = count(args.root)
    if args.before:
        before, _ = count(args.before)
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerows([("count", "before", "after"), *((name, before[name], n) for name, n in counts.items())])
        return
    for name, n in counts.items():
        print(f"| {name} | {n} |")
    if args.list:
        print("\n".join(named))


if __name__ == "__main__":
    main()
