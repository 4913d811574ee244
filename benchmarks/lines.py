"""Counts lines of code: blank lines, comments and docstrings are left out.

python benchmarks/lines.py                  # the package, room by room
python benchmarks/lines.py --tree DIR       # another checkout
"""

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(source: str) -> set[int]:
    """The line numbers that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def longest(tree: Path) -> tuple[tuple[int, str], tuple[int, str]]:
    """(lines, name) of the longest file and of the longest function, in lines of code."""
    files, functions = [(0, "none")], [(0, "none")]
    for file in sorted(tree.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        code = code_lines(source)
        files.append((len(code), str(file.relative_to(tree))))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = code.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
                functions.append((len(inside), f"{file.relative_to(tree)}:{node.name}"))
    return max(files), max(functions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="checkout to count in")
    tree = parser.parse_args().tree
    rooms: Counter[str] = Counter()
    for file in sorted((tree / "eightball_ppo").rglob("*.py")):
        rooms[str(file.parent.relative_to(tree))] += len(code_lines(file.read_text(encoding="utf-8")))
    for room, lines in sorted(rooms.items()):
        print(f"{lines:7,}  {room}")
    print(f"{rooms.total():7,}  package, lines of code")
    tests = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (tree / "tests").rglob("*.py"))
    print(f"{tests:7,}  tests, all lines")
    for what, (lines, name) in zip(("file", "function"), longest(tree / "eightball_ppo"), strict=True):
        print(f"{lines:7,}  longest {what}, {name}")


if __name__ == "__main__":
    main()
