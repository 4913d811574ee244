"""Draw the wrong labels of `datasets/tickets/sft.jsonl`: 30 % of the labels.

python scripts/draw_ticket_labels.py            # rewrites the file with the same bytes
python scripts/draw_ticket_labels.py --seed 9   # another draw
"""

import argparse
import json
import random
from pathlib import Path

SHARE = 0.3


def with_wrong_labels(rows: list[dict[str, str]], seed: int, share: float = SHARE) -> list[dict[str, str]]:
    """Each row with `intent`, which in `share` of every intent's rows is drawn uniformly from the other intents."""
    draw = random.Random(seed)
    intents = sorted({row["intent_true"] for row in rows})
    intent_of = {}
    for intent in intents:
        texts = [row["text"] for row in rows if row["intent_true"] == intent]
        wrong = set(draw.sample(texts, round(share * len(texts))))
        for text in texts:
            intent_of[text] = draw.choice([other for other in intents if other != intent]) if text in wrong else intent
    return [{"text": row["text"], "intent": intent_of[row["text"]], "intent_true": row["intent_true"]} for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("datasets/tickets/sft.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in with_wrong_labels(rows, arguments.seed)]
    arguments.file.write_text("".join(lines), encoding="utf-8")
