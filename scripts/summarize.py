"""Print finished runs as Markdown tables, mean over seeds with the lowest and the highest.

python scripts/summarize.py runs/*
"""

import sys
from pathlib import Path

from eightball_ppo.errors import InputError
from eightball_ppo.report.summary import markdown_tables

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    try:
        print(markdown_tables([Path(argument) for argument in sys.argv[1:]]))
    except InputError as error:
        print(f"summarize.py: {error}", file=sys.stderr)
        sys.exit(2)
