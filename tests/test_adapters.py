"""The adapters that TRL sees: ids that never clash, logits and values of the question alone, scores as rewards."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from trl.experimental.utils import get_reward

import tiny
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters.policy import PolicyAdapter
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary
from eightball_ppo.trl_adapters.value import ValueAdapter, ValueTrunk

N, K = 12, 3
IDS = PromptVocabulary(K)


def sequences(rows: Tensor, actions: Tensor) -> Tensor:
    return torch.stack([IDS.question_ids(rows), IDS.action_ids(actions)], dim=1)


def test_policy_logits_are_the_classifiers_and_ignore_the_action() -> None:
    model, table = tiny.classifier(), tiny.tokens(N)
    policy = PolicyAdapter(model, PromptEncoder(table, IDS))
    rows = torch.arange(N)
    expected_NK = model(**table.rows(rows)).logits
    for action in range(K):
        logits = policy(sequences(rows, torch.full((N,), action))).logits
        assert logits.shape == (N, 2, K + 1)
        assert torch.equal(logits[:, 0, 1:], expected_NK)
    assert policy(IDS.question_ids(rows)[:, None]).logits[:, 0].softmax(-1)[:, 0].max() == 0  # pad is never sampled


def test_policy_logits_may_be_divided_in_place() -> None:
    policy = PolicyAdapter(tiny.classifier(), PromptEncoder(tiny.tokens(N), IDS))
    ids = sequences(torch.arange(N), torch.zeros(N, dtype=torch.long))
    first = policy(ids).logits
    before = first.detach().clone()
    view = first[:, 0:1]
    view /= 2.0
    view.sum().backward()  # an in-place edit of what autograd saved would raise here
    assert torch.equal(policy(ids).logits, before)


def test_generate_samples_from_the_softmax() -> None:
    """20,000 draws for one question: each label's share within 4 standard errors."""
    model, table = tiny.classifier(), tiny.tokens(N)
    policy = PolicyAdapter(model, PromptEncoder(table, IDS))
    torch.manual_seed(0)
    draws = 20_000
    output = policy.generate(IDS.question_ids(torch.zeros(draws, 1, dtype=torch.long)))
    share_K = torch.bincount(IDS.actions(output.sequences), minlength=K) / draws
    p_K = model(**table.rows(torch.tensor([0]))).logits.softmax(-1)[0]
    assert ((share_K - p_K).abs() < 4 * (p_K * (1 - p_K) / draws).sqrt()).all()
    torch.testing.assert_close(output.scores[0], policy(output.sequences).logits[:, 0], atol=0, rtol=1e-6)


def test_value_ignores_the_action_and_starts_at_zero() -> None:
    value = ValueAdapter(ValueTrunk(tiny.classifier(), PromptEncoder(tiny.tokens(N), IDS)))
    nn.init.normal_(value.score.weight)
    rows = torch.arange(N)
    values = [get_reward(value, sequences(rows, torch.full((N,), a)), 0, 1)[0] for a in range(K)]
    assert values[0].shape == (N, 2, 1) and values[0].std() > 0
    assert all(torch.equal(values[0], other) for other in values[1:])
    fresh = ValueAdapter(ValueTrunk(tiny.classifier(), PromptEncoder(tiny.tokens(N), IDS)))
    assert get_reward(fresh, sequences(rows, rows % K), 0, 1)[0].abs().max() == 0


def test_token_table_moves_with_the_module_and_stays_integer() -> None:
    policy = PolicyAdapter(tiny.classifier(), PromptEncoder(tiny.tokens(N), IDS)).to("meta").to(torch.float64)
    assert policy.by_row.reader.tokens.ids_S.device.type == "meta"
    assert policy.by_row.reader.tokens.ids_S.dtype == torch.int32
    assert not list(policy.buffers())  # DDP would broadcast them at every forward pass


# --- properties for any number of labels, lengths, batch and padding

questions = st.lists(st.lists(st.integers(1, tiny.VOCABULARY - 1), min_size=1, max_size=40), min_size=1, max_size=6)
batches = st.lists(st.integers(0, 5), min_size=1, max_size=9)


@given(st.integers(2, 50), questions, batches, st.integers(0, tiny.VOCABULARY - 1))
@settings(max_examples=25)
def test_logits_and_values_ignore_the_batch(labels: int, ids: list[list[int]], batch: list[int], pad: int) -> None:
    model = tiny.classifier(labels)
    model.config.pad_token_id = pad
    table = TokenTable.of(ids, pad)
    sequence_ids = PromptVocabulary(labels)
    policy = PolicyAdapter(model, PromptEncoder(table, sequence_ids))
    trunk = ValueTrunk(tiny.classifier(labels, seed=1), PromptEncoder(table, sequence_ids)).by_row
    rows = torch.tensor([row % len(ids) for row in batch])
    input_ids = sequence_ids.question_ids(rows)[:, None]
    with torch.no_grad():
        together, summaries = policy(input_ids).logits[:, 0], trunk.summary_BH(input_ids)
        for position, row in enumerate(rows.tolist()):
            alone = model(input_ids=torch.tensor([ids[row]]), attention_mask=torch.ones(1, len(ids[row]))).logits[0]
            torch.testing.assert_close(together[position, 1:], alone, atol=1e-5, rtol=1e-5)
            expected_H = trunk.summary_BH(input_ids[position, None])[0]
            torch.testing.assert_close(summaries[position], expected_H, atol=1e-5, rtol=1e-5)


@given(st.integers(2, 50), st.integers(0, 2**20), st.sampled_from([1e-3, 1.0, 1e3, 9e3]))
@settings(max_examples=40)
def test_the_pad_column_is_never_sampled(labels: int, seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_NK = -spread * torch.rand(6, labels, generator=generator)
    ids = PromptVocabulary(labels)
    policy = PolicyAdapter(tiny.Tabular(logits_NK), PromptEncoder(tiny.row_tokens(6), ids))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = policy.generate(ids.question_ids(torch.arange(6).repeat(20))[:, None])
    actions = ids.actions(output.sequences)
    assert ((actions >= 0) & (actions < labels)).all()
    assert output.scores[0].softmax(-1)[:, ids.pad_token_id].max() == 0


@given(st.integers(2, 10_000), st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(0, 2**20))
def test_rows_and_actions_are_recovered_from_their_ids(labels: int, rows: list[int], seed: int) -> None:
    ids = PromptVocabulary(labels)
    rows_B = torch.tensor(rows)
    action_B = torch.randint(labels, rows_B.shape, generator=torch.Generator().manual_seed(seed))
    sequences_B2 = torch.stack([ids.question_ids(rows_B), ids.action_ids(action_B)], dim=1)
    assert torch.equal(ids.rows(sequences_B2), rows_B) and torch.equal(ids.actions(sequences_B2), action_B)
    assert torch.equal(ids.rows(sequences_B2[:, :1]), rows_B)
    assert not {ids.pad_token_id, ids.eos_token_id} & set(sequences_B2.flatten().tolist())
    assert not set(sequences_B2[:, 0].tolist()) & set(range(labels + 1))  # prompt ids are no action ids
