"""Small runs for the demo, made in a second."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import Questions
from eightball_ppo.evaluation import GradedSplit, before_after, evaluate
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.models.loading import load_classifier, text_logits_NK
from eightball_ppo.runtime.run import write_config

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [
    "Will I be rich?",
    "Is it over?",
    "Will <b>she</b> ${call} {{me}}?",
    "Do I win?",
    "Tea or coffee?",
    "Am I late?",
]
NASTY = ["<script>alert(1)</script>?", "<img src=x onerror=alert(1)>?", "'; DROP TABLE runs; --", "🎱🔮 will it? 💸"]
NASTY += ["{{ 7*7 }} ${7*7} {{value}} ?"]


def make_runs(root: Path, sft_run: Path) -> Path:
    """`root` with runs sft, reward, ppo and distill in it, small and made in a second."""
    shutil.copytree(sft_run, root / "sft")
    grader = BertGrader.random_head(LABELS, 1)
    grader.model.save_pretrained(root / "reward")
    grader.tokenizer.save_pretrained(root / "reward")
    for seed, method in enumerate(("ppo", "distill")):
        run = root / method
        shutil.copytree(sft_run, run)
        model = AutoModelForSequenceClassification.from_pretrained(run)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.4 * torch.randn_like(parameter))
        model.save_pretrained(run)
        sft, reward = str(root / "sft"), str(root / "reward")
        write_config(
            run,
            PPOConfig(
                output_dir=str(run), kl_coef=0.5, score_type="log_prob", sft_model_path=sft, reward_model_path=reward
            ),
        )
        _write_records(run, root / "sft", grader, method)
    return root


def _write_records(run: Path, sft: Path, grader: BertGrader, method: str) -> None:
    heldout = Questions("held out", QUESTIONS, [0, 1, 2, 0, 2, 1])
    before_NK, after_NK = (text_logits_NK(*load_classifier(str(path), "--runs"), heldout) for path in (sft, run))
    graded = GradedSplit(heldout, grader.logp_BK(QUESTIONS).double(), before_NK.double().log_softmax(-1))
    before_after(graded, before_NK, after_NK, LABELS, 0).to_parquet(run / "before_after.parquet")
    policy, reference = (evaluate(x.double().log_softmax(-1), graded, 0.5, LABELS) for x in (after_NK, before_NK))
    results = {"method": method, "seed": 0, "beta": 0.5, "episodes": 480 * (method == "ppo"), "grader_calls": 18}
    results |= {"splits": {"heldout": policy}, "reference": {"heldout": reference}}
    (run / "results.json").write_text(json.dumps(results))
    rows: list[dict[str, Any]] = [{"stage": "other", "exact/kl": 9.0, "step": 1}]
    for step in range(1, 5):
        exact = {"exact/expected_score": -4.0 / step, "exact/kl": 0.1 * step, "exact/optimum_fraction": 0.2 * step}
        rows.append({"stage": method, "step": step, **exact} | ({"episode": 120 * step} if method == "ppo" else {}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
