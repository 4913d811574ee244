"""Looks for names and words that were replaced by the field's terms; exit code 1 where one came back.

python benchmarks/names.py
"""

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Names of classes, functions, methods, constants, options, parameters and variables.
REPLACED = """
own told everybody prospect outlook budget_of source_of lost_peer part_processes from_main_process _give_signs
from_every_process check_place _leave unfinished_path drop_directory _seal keeping_fit keeping_task origin_of
at_hand place_B check_one_till paid_NK may_end_early without_waiting in_dtype load_whole few_of reads_at_most cut_at
table_logits_NK first_N require_sides answers_of same_recipe load_ground voices_view _hero _wire _told _say Made
SplitGrades Yardstick ToldError GuardError Stopped HiddenStates StaysInEval RowClassifier _GradeLookup SequenceIds
QuestionReader ExactBaseline TermsConfig GradedConfig SampledConfig GroupConfig StageConfig LearningConfig FitConfig
Judged OutOfBudgetError CallFailedError NextWords Averaged Noisy Remapped SplitOfGrades Joined Watched JobGrades
TrainingGrades Till Keeper Checkpoints Keeping RunningLoss _Flow Resumption Spent TrainerProgress Late
Randomness OfEveryRank Enough LastBatch Guards Ending GradientWatch WatchedScores WatchedTraining Episodes GroupJob
Holes Measured NoQuestion Spot Ball Flip Look Spread _Asked _File RecallForSequenceClassification NEVER MOST
LEAVING_OUT MOST_WATCHED INHERITED MEND WATCHED FEW LIKE MEASURED FLUKE SHORTEST ECHO FORWARD PATIENCE _NEVER _AGAIN
SMALL CLOSE DEAREST CHEAPEST prerequisites grader_noise best_of call_attempts call_timeout target_kl
"""
# Words of prose: comments, docstrings, messages, documents.
WORDS = re.compile(
    r"\b(anew|mend(s|ed|ing)?|wish(es|ed)?|dearest|dearer|cheapest|prices? of KL|ToldError|is told|are told)\b", re.I
)
PROSE = {".py", ".md", ".yaml", ".toml", ".jinja", ".sh"}
# What was said in the past stays as it was said; data are people's words.
LEFT_OUT = ("benchmarks/names.py", "benchmarks/results/", "CHANGELOG.md", "docs/LOG.md", "datasets/", "requirements/")


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that Python code names: definitions, parameters, assignments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    found, replaced = 0, frozenset(REPLACED.split())
    for file in (ROOT / name for name in listed if name and not name.startswith(LEFT_OUT)):
        if file.suffix not in PROSE or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        hits = [(number, hit[0]) for number, line in enumerate(text.split("\n"), 1) for hit in WORDS.finditer(line)]
        if file.suffix == ".py":
            hits += [(number, name) for number, name in names_in(text) if name in replaced]
        for number, what in sorted(hits):
            print(f"{file.relative_to(ROOT)}:{number}: {what}")
        found += len(hits)
    print(f"{found} replaced names or words")
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
