"""Draw the random 8-ball response of every SFT question of `datasets/eightball/sft.jsonl`.

python scripts/draw_sft_responses.py            # rewrites the file with the same bytes
python scripts/draw_sft_responses.py --seed 9   # another draw
"""

import argparse
import json
import random
from pathlib import Path

# The 20 responses of the toy (10 affirmative, 5 non-committal, 5 negative), each with the answer it shortens to.
# A response drawn at random therefore shortens to Yes / No / Maybe with probability 0.50 / 0.25 / 0.25.
ANSWER_OF_RESPONSE: dict[str, str] = {
    "It is certain.": "Yes",
    "It is decidedly so.": "Yes",
    "Without a doubt.": "Yes",
    "Yes definitely.": "Yes",
    "You may rely on it.": "Yes",
    "As I see it, yes.": "Yes",
    "Most likely.": "Yes",
    "Outlook good.": "Yes",
    "Yes.": "Yes",
    "Signs point to yes.": "Yes",
    "Reply hazy, try again.": "Maybe",
    "Ask again later.": "Maybe",
    "Better not tell you now.": "Maybe",
    "Cannot predict now.": "Maybe",
    "Concentrate and ask again.": "Maybe",
    "Don't count on it.": "No",
    "My reply is no.": "No",
    "My sources say no.": "No",
    "Outlook not so good.": "No",
    "Very doubtful.": "No",
}


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
