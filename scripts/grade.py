"""Fill the grade store with a grader's grades of a dataset, and export them as grades.parquet.

python scripts/grade.py --grader rule:Yes --output_dir grades/yes
python scripts/grade.py --grader llm --grader_model models/judge --output_dir grades/judge --dry_run
EIGHTBALL_API_KEY=... python scripts/grade.py --grader api --grader_model NAME --grader_base_url https://HOST/v1
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("grade")
