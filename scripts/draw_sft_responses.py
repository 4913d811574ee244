"""Draw the random 8-ball response of every SFT question of `datasets/eightball/sft.jsonl`.

python scripts/draw_sft_responses.py            # rewrites the file with the same bytes
python scripts/draw_sft_responses.py --seed 9   # another draw
"""

import argparse
import json
import random
from pathlib import Path

from eightball_ppo.labels import ANSWER_OF_RESPONSE


def with_responses(rows: list[dict[str, str]], seed: int) -> list[dict[str, str]]:
    """Each row's question and topic with a response drawn uniformly from the 20, and the answer it shortens to."""
    draw = random.Random(seed)
    responses = list(ANSWER_OF_RESPONSE)
    drawn = []
    for row in rows:
        response = draw.choice(responses)
        answer = ANSWER_OF_RESPONSE[response]
        drawn.append({"question": row["question"], "response": response, "answer": answer, "topic": row["topic"]})
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("datasets/eightball/sft.jsonl"))
    parser.add_argument("--seed", type=int, default=8)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in with_responses(rows, arguments.seed)]
    arguments.file.write_text("".join(lines), encoding="utf-8")
