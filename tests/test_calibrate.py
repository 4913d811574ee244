"""`--calibrate`: a temperature from texts that training does not see, folded into the saved policy."""

import re
from typing import Any

import pytest
import torch
from short_methods import Make, loaded, train

from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.functional.calibration import fit_temperature
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.runtime.run import read_results

SHORT = {"threshold": 0.0, "num_train_epochs": 2}


def test_the_saved_policy_is_as_sure_as_the_grader_of_texts_that_were_kept_back(
    options: Make, no_figures: None
) -> None:
    config = options("distill", calibrate=True, **SHORT)
    run = train("distill", config)
    results, task, plain = read_results(run), loaded(config), loaded(options("distill", **SHORT))
    assert task.calibration is not None and plain.calibration is None
    assert results["splits"]["train"]["questions"] == 54 and results["calibration_questions"] == 6
    assert len(plain.questions["train"]) == 60 and results["temperature"] != 1
    policy, _ = load_classifier(str(run), "run")
    logits_MK = predict_logits_NK(policy, task.calibration.tokens)
    assert fit_temperature(logits_MK, task.calibration.grader_logp_MK.exp()) == pytest.approx(1, abs=0.01)
    uncalibrated_MK = logits_MK * results["temperature"]
    best = torch.nn.functional.cross_entropy(logits_MK, task.calibration.grader_logp_MK.exp())
    assert best < torch.nn.functional.cross_entropy(uncalibrated_MK, task.calibration.grader_logp_MK.exp())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grader_call_budget": 90}, "--calibrate: needs whole grades of texts that are not learned from"),
        ({"label_noise": "0.3:call"}, "--calibrate: needs grades that stay, not --label_noise 0.3:call"),
    ],
)
@pytest.mark.parametrize("config", [DistillConfig, PPOConfig])
def test_grades_that_are_not_whole_cannot_calibrate(config: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        config(calibrate=True, **options)
