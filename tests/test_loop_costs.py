"""What an update costs, counted instead of timed; encoding a question once changes no number."""

import copy
import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

import tiny
from eightball_ppo.errors import InputError
from eightball_ppo.functional.objective import objective_N
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.trl_adapters import speedups
from eightball_ppo.trl_adapters.build import TRLModels, build_models, build_policies
from eightball_ppo.trl_adapters.policy import PolicyAdapter, RewardAdapter
from eightball_ppo.trl_adapters.prompt_ids import EncodedBatch, PromptEncoder, PromptVocabulary
from eightball_ppo.trl_adapters.value import ExactValueBaseline, ValueAdapter, ValueTrunk

N, K = 24, 3
IDS = PromptVocabulary(K)


class _Forwards:
    """Counts the forward passes of a module and the questions in them."""

    def __init__(self, module: nn.Module):
        self.questions: list[int] = []
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        self.questions.append(len(inputs["input_ids"]))


@pytest.mark.parametrize("baseline", ["value", "exact"])
def test_forward_passes_of_an_update(baseline: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """24 questions, each twice in a batch of 48: a rollout is one pass of 24 rows, as is each of 2 x 2 minibatches."""
    batch: dict[str, Any] = {"repeats_per_epoch": 2, "num_mini_batches": 2, "num_ppo_epochs": 2}
    settings = tiny.config(total_episodes=5 * 48, baseline=baseline, **batch)
    trainer, models = tiny.trainer(settings, tiny.classifier(), tiny.tokens(N), tiny.scores(N), tmp_path)
    policy, reference = (_Forwards(m.backbone.classifier) for m in (models.policy, models.reference))
    rollouts: list[int] = []
    lookup = models.reward.lookup
    lookup.register_forward_pre_hook(lambda *call: rollouts.append(len(call[2]["input_ids"])), with_kwargs=True)
    trunk = models.value.trunk
    value = _Forwards(trunk.backbone.classifier) if isinstance(trunk, ValueTrunk) else None
    shared: list[int] = []
    made = speedups.fused_forward

    def both(*arguments: Any) -> Any:
        shared.append(len(arguments[2]))
        return made(*arguments)

    monkeypatch.setattr(speedups, "fused_forward", both)
    ppo.run_trainer(trainer, settings)
    assert rollouts == [48] * 5
    assert sum(reference.questions) == N + 1  # and one to learn how many logits there are
    if value is None:
        assert policy.questions == ([N] + [N] + 4 * [N]) * 5  # sampled, valued, updated
    else:
        assert policy.questions == value.questions == [N] * 5  # sampled, valued
        assert shared == 4 * [N] * 5  # updated, both in one pass


class _Shapes(TorchDispatchMode):
    """The shapes of all tensors that operations return while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        tensors = returned if isinstance(returned, tuple | list) else (returned,)
        self.seen.update(tuple(tensor.shape) for tensor in tensors if isinstance(tensor, Tensor))
        return returned


def test_no_tensor_of_the_loop_is_wider_than_the_labels_and_a_pad(tmp_path: Path) -> None:
    """With a table for a network, what is left is TRL's loop and the adapters. A vocabulary would be wider."""
    settings = tiny.config(total_episodes=2 * 64, num_mini_batches=2)
    model, table = tiny.Tabular(tiny.scores(64)), tiny.row_tokens(64)
    trainer, _ = tiny.trainer(settings, model, table, tiny.scores(64), tmp_path)
    with _Shapes() as shapes:
        ppo.run_trainer(trainer, settings)
    wide = {shape for shape in shapes.seen if len(shape) > 1 and shape[-1] > K + 1}
    assert wide == {(1, 64)}, wide  # the ids of the 64 questions


class _Memory(TrainerCallback):
    """Resident memory and Python's full garbage collections after each update."""

    def __init__(self) -> None:
        self.resident: list[int] = []
        self.collections: list[int] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.collections.append(gc.get_stats()[2]["collections"])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from Linux's /proc")
@pytest.mark.parametrize("updates", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_memory_does_not_grow_over_updates(updates: int, tmp_path: Path) -> None:
    memory = _Memory()
    settings = tiny.config(repeats_per_epoch=1, num_ppo_epochs=1, total_episodes=updates * N)
    trainer, _ = tiny.trainer(settings, tiny.classifier(), tiny.tokens(N), tiny.scores(N), tmp_path, [memory])
    ppo.run_trainer(trainer, settings)
    assert len(memory.resident) == updates
    assert memory.resident[-1] - memory.resident[20] < 5 * 2**20
    assert memory.collections[-1] - memory.collections[20] == 2 * (updates - 21)  # TRL's two an update


def test_repeated_questions_are_encoded_once() -> None:
    reader = PromptEncoder(tiny.tokens(N), IDS)
    few = IDS.question_ids(torch.tensor([5, 3, 5]))[:, None]
    assert reader.encode(few) is reader.encode(few)
    assert reader.encode(few).inverse_B is None  # so few rows hardly ever repeat
    many = IDS.question_ids(torch.tensor([7, 3] * 10))[:, None]
    inputs, inverse_B = reader.encode(many)
    assert len(inputs["input_ids"]) == 2 and inverse_B is not None and inverse_B.tolist() == [1, 0] * 10
    all_N, inverse_B = reader.encode(IDS.question_ids(torch.arange(30) % N)[:, None])
    assert len(all_N["input_ids"]) == N and inverse_B is not None and inverse_B.tolist() == [i % N for i in range(30)]
    assert reader.encode(IDS.question_ids(torch.arange(N))[:, None]).inputs is all_N  # made once


class _PlainReader(PromptEncoder):
    """Encodes every row of every batch, repeats and all."""

    def encode(self, input_ids: Tensor) -> EncodedBatch:
        return EncodedBatch(self.tokens.rows(self.ids.rows(input_ids)), None)


def _plain(model: nn.Module, table: Any, score_NK: Tensor) -> TRLModels:
    """The models of `build_models` without its savings: no shared reader, no memory of the reference."""
    reader = _PlainReader(table, IDS)
    copies = [copy.deepcopy(model) for _ in range(3)]
    policy, reference = PolicyAdapter(copies[0], reader), PolicyAdapter(copies[1].requires_grad_(False), reader)
    trunk = ValueTrunk(copies[2], reader)
    return TRLModels(
        IDS,
        policy,
        reference,  # type: ignore[arg-type]
        ValueAdapter(trunk),
        RewardAdapter(BudgetedScores(score_NK), IDS),
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch", [16, 20, 48])
def test_savings_change_no_number(batch: int, tmp_path: Path) -> None:
    model, table, score_NK = tiny.classifier(), tiny.tokens(N), tiny.scores(N)
    size = {"total_episodes": 3 * batch, "per_device_train_batch_size": batch}
    settings = tiny.config(repeats_per_epoch=2, num_mini_batches=2, **size)
    rows: list[list[dict[str, float]]] = []
    ended = []
    for models in (tiny.trl_models(model, table, score_NK, settings), _plain(model, table, score_NK)):
        logs = tiny.Logs()
        ppo.run_trainer(ppo.build_trainer(settings, models, batch, tmp_path, [logs]), settings)
        rows.append(logs.rows)
        ended.append(predict_logits_NK(models.policy.backbone.classifier, table))
    torch.testing.assert_close(ended[0], ended[1], atol=1e-6, rtol=0)
    assert not torch.allclose(ended[0], predict_logits_NK(model, table), atol=1e-3)
    for mine, theirs in zip(*rows, strict=True):
        for name in ("objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "policy/entropy_avg"):
            assert mine[name] == pytest.approx(theirs[name], abs=2e-6), name


def test_exact_baseline_is_the_value_of_the_sampling_policy(tmp_path: Path) -> None:
    model, table, score_NK = tiny.classifier(), tiny.tokens(N), tiny.scores(N)
    settings = tiny.config(baseline="exact", kl_coef=0.3)
    scores = BudgetedScores(score_NK)
    models = build_models(*build_policies(model, table, settings), scores, scores, settings)
    trunk = models.value.trunk
    assert isinstance(trunk, ExactValueBaseline) and not list(models.value.parameters())
    assert scores.calls == N * K  # it looks at every grade
    ids = IDS.question_ids(torch.arange(N))[:, None]
    with torch.no_grad():
        for weight in models.policy.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        logp_NK, ref_logp_NK = (m(ids).logits[:, 0, 1:].log_softmax(-1) for m in (models.policy, models.reference))
        (sampled,) = trunk(ids).hidden_states
    expected_N = objective_N(logp_NK, ref_logp_NK, score_NK, 0.3)
    torch.testing.assert_close(sampled[:, 0, 0], expected_N)
    assert (expected_N - score_NK.mean(1)).abs().max() > 0.1
    with torch.no_grad():
        next(models.policy.parameters()).add_(1.0)
    (updated,) = trunk(ids).hidden_states  # with gradients on: TRL is updating, the answers are the old policy's
    assert torch.equal(updated, sampled)


def test_exact_baseline_refuses_a_budget() -> None:
    with pytest.raises(InputError, match=r"--baseline exact.*--grader_call_budget"):
        tiny.config(baseline="exact", grader_call_budget=10)
