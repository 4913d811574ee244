"""A comparison over several references, end to end in this process."""

from pathlib import Path

import pytest
import yaml
from comparing import call, results, run_in_this_process, summary, times

from benchmarks import recompute


@pytest.mark.slow
def test_references_are_trained_with_their_own_seeds_and_shared_by_methods(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_this_process(monkeypatch)
    common = {"dataset_name": str(small_data), "grader": "rule:Yes", "allow_weak_grader": True, "disable_tqdm": True}
    grid = {"methods": ["sft", "distill", "exact"], "seeds": [0, 1, 2], "kl_coefs": [0.5], "references": 2}
    options = ["exact.num_train_epochs=2", "distill.num_train_epochs=2", "distill.threshold=0"]
    stages = {"sft": {"num_train_epochs": 1}, "compare": {**grid, "method_options": options}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**common, **stages}))
    code, _, err = call(["--config", "recipe.yaml", "--output_dir", "D"])
    assert (code, err) == (0, ""), err
    first, second = (
        (tmp_path / "D" / name / "model.safetensors").read_bytes() for name in ("reference", "reference-1")
    )
    assert first != second
    frame = results(tmp_path / "D")
    assert frame["reference"].tolist() == (frame["seed"] % 2).tolist()
    kl = frame.query("method == 'sft'").groupby("seed")["expected_score"].first()
    assert kl[0] == kl[2] != kl[1]
    record = summary(tmp_path / "D")
    assert {(row["seeds"], row["references"]) for row in record["intervals"]} == {(3, 2)}
    assert {row["verdict"] for row in record["pairs"]} <= {"ahead", "equal", "undecided"}
    assert recompute.main([str(tmp_path / "D")]) == 0
    before = times(tmp_path / "D", "reference", "reference-1", "grades.parquet", "grades-1.parquet", "runs")
    assert call(["--config", "recipe.yaml", "--output_dir", "D"])[0] == 0
    assert times(tmp_path / "D", "reference", "reference-1", "grades.parquet", "grades-1.parquet", "runs") == before
    code, _, err = call(["--config", "recipe.yaml", "--output_dir", "D", "--references", "3"])
    assert code == 2 and "was compared with --references 2, not 3" in err
