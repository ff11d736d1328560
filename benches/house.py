#!/usr/bin/env python3
"""Counts of the source: long functions, functions of many arguments, conditions on features, lines, README's words.

    benches/house.py [--root DIR] [--list]
"""

import argparse
import pathlib
import re

LONG = 60
MANY = 8


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parents[1], type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="name the long functions and those of many arguments")
    args = parser.parse_args()
    long, many, conditions, lines, code = [], [], 0, 0, 0
    for path in sorted((args.root / "src").rglob("*.rs")):
        if path.stem.endswith("tests"):
            continue
        text = without_tests(path.read_text())
        own = [line for line in text.split("\n") if line.strip()]
        lines += len(text.split("\n"))
        code += sum(not line.strip().startswith("//") for line in own)
        conditions += len(re.findall(r'cfg!?\([^\n]*feature = "cuda"', text))
        for line, name, length, arguments in functions(text):
            place = f"{path.relative_to(args.root)}:{line} {name}"
            if length > LONG:
                long.append(f"{place}: {length} lines")
            if arguments >= MANY:
                many.append(f"{place}: {arguments} arguments")
    words = len((args.root / "README.md").read_text().split())
    print(f"| functions over {LONG} lines | {len(long)} |")
    print(f"| functions of {MANY} arguments and more | {len(many)} |")
    print(f'| conditions on feature = "cuda" | {conditions} |')
    print(f"| lines of src without tests | {lines} |")
    print(f"| of these neither blank nor comment | {code} |")
    print(f"| README's words | {words} |")
    if args.list:
        print("\n".join(long + many))


if __name__ == "__main__":
    main()
