"""Sources derived from others: ensembles, label noise, label maps, another order of the labels.

Their scores are computed on reading, so ten noise rates on a paid judge cost one grading.
"""

import hashlib
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.base import Scale
from eightball_ppo.graders.storage.score_table import ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.labels import LabelSet


class DerivedSource(GradeSource):
    """A source computed from other sources, its members, which are filled in turn."""

    def __init__(self, members: Sequence[GradeSource], labels: LabelSet, fingerprint: str, scale: Scale = "log_prob"):
        self.members, self.labels, self.fingerprint, self.scale = members, labels, fingerprint, scale
        self.audited_as = fingerprint
        for member in members:
            self.audited_as = self.audited_as.replace(member.fingerprint, member.audited_as)
        of_members = (name for member in members for name in member.fingerprints)
        self.fingerprints = tuple(dict.fromkeys((fingerprint, self.audited_as, *of_members)))
        self.deliberate = all(member.deliberate for member in members)
        self.rated = any(member.rated for member in members)
        self.settings = {"grader": fingerprint.split("(")[0], "of": [member.settings for member in members]}

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """See `GradeSource.estimate_cost`."""
        calls, tokens = zip(*(member.estimate_cost(questions) for member in self.members), strict=True)
        return sum(calls), sum(tokens)

    def num_requests(self, questions: int) -> int:
        """See `GradeSource.num_requests`."""
        return sum(member.num_requests(questions) for member in self.members)

    def grade_missing(self, questions: Sequence[str]) -> None:
        """See `GradeSource.grade_missing`."""
        for member in self.members:
            member.grade_missing(questions)

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """See `GradeSource.read_chunk`. A question's cells have the worst status, and latest time, of all members."""
        parts = [member.read_chunk(questions) for member in self.members]
        cells_MNJ = [part.cells_NK for part in parts if part.cells_NK is not None]
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        for name in ("status", "graded_at"):
            cells_NK[name] = np.stack([cells_NJ[name].max(1, keepdims=True) for cells_NJ in cells_MNJ]).max(0)
        scores = [part.score_NK if self.scale == "raw" else part.logp_NK for part in parts]
        cells_NK["score"] = self._derive(scores, questions)
        calls, num_ok = sum(part.calls for part in parts), sum(part.num_ok for part in parts)
        details = [detail for part in parts for detail in part.details]
        missing_S = np.concatenate([part.missing_mass_S for part in parts])
        return ScoreTable.from_cells(cells_NK, self.scale, calls, details, num_ok, missing_S)

    @abstractmethod
    def _derive(self, score_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        """Scores [N, K] from those of each member, which are NaN where one is missing.

        Log-probabilities in nats, unless `scale` is "raw".
        """


class EnsembleSource(DerivedSource):
    """The weighted mean of the members' probabilities; a question is complete if it is for all members.

    Raw scores become probabilities by a softmax. If all members give raw scores, theirs are summed with the weights.
    """

    def __init__(self, members: Sequence[GradeSource], weights: Sequence[float]):
        raw = all(member.scale == "raw" for member in members)
        self._weight_M = list(weights) if raw else [weight / sum(weights) for weight in weights]
        members = [reorder(member, members[0].labels) for member in members]
        weighted = ",".join(f"{weight:g}*{m.fingerprint}" for weight, m in zip(self._weight_M, members, strict=True))
        super().__init__(
            members, members[0].labels, f"{'sum' if raw else 'mean'}({weighted})", "raw" if raw else "log_prob"
        )

    def _derive(self, score_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        score_MNK = torch.stack([score_NK.double() for score_NK in score_MNJ])
        weight_M11 = torch.tensor(self._weight_M, dtype=torch.float64)[:, None, None]
        return (score_MNK * weight_M11).sum(0) if self.scale == "raw" else (score_MNK + weight_M11.log()).logsumexp(0)


class LabelNoiseSource(DerivedSource):
    """Rolls the scores of a question by 1 to K-1 labels with probability `rate`, so that another label scores best.

    The draw depends on `seed`, the member's fingerprint and the question; labels are rolled in the member's own order,
    so that the order of a run changes nothing.
    """

    def __init__(self, member: GradeSource, rate: float, seed: int):
        self._rate, self._seed = rate, seed
        member = member.members[0] if isinstance(member, ReorderedSource) else member
        fingerprint = f"noisy:{rate:g}:seed{seed}({member.fingerprint})"
        super().__init__([member], member.labels, fingerprint, "raw" if member.scale == "raw" else "log_prob")

    def _derive(self, score_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        score_NK = score_MNJ[0].clone()
        for row, question in enumerate(questions):
            key = f"{self._seed}:{self.members[0].fingerprint}:{question}"
            rng = random.Random(hashlib.sha256(key.encode()).digest())
            if rng.random() < self._rate:
                shifts = rng.sample(range(1, len(self.labels)), len(self.labels) - 1)
                rolled = [score_NK[row].roll(shift) for shift in shifts]
                best = score_NK[row].argmax()
                score_NK[row] = next((other_K for other_K in rolled if other_K.argmax() != best), rolled[0])
        return score_NK


class LabelMapSource(DerivedSource):
    """Maps the J labels of a member to K others, adding the probabilities of labels with the same target.

    Args:
        member: The source with J labels.
        target_J: The new label id of each of the J labels; every new label is a target.
        labels: The K labels.
    """

    def __init__(self, member: GradeSource, target_J: Sequence[int], labels: LabelSet):
        self._sources_K = [[j for j, k in enumerate(target_J) if k == label] for label in range(len(labels))]
        names = ",".join(f"{name}={labels.names[k]}" for name, k in zip(member.labels.names, target_J, strict=True))
        super().__init__([member], labels, f"remapped:{names}({member.fingerprint})")

    def _derive(self, score_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_NJ = score_MNJ[0].double()
        return torch.stack([logp_NJ[:, sources].logsumexp(1) for sources in self._sources_K], dim=1)


class ReorderedSource(DerivedSource):
    """The same grades with the labels in another order; what identifies the member is unchanged."""

    def __init__(self, member: GradeSource, labels: LabelSet):
        labels.require_same(member.labels, "the run", f"grader {member.fingerprint}")
        super().__init__([member], labels, member.fingerprint, member.scale)
        self.fingerprints, self.settings = member.fingerprints, member.settings
        self._columns = labels.columns_in(member.labels)

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """See `GradeSource.read_chunk`."""
        chunk = self.members[0].read_chunk(questions)
        assert chunk.cells_NK is not None
        cells_NK = np.ascontiguousarray(chunk.cells_NK[:, self._columns])
        return replace(chunk, score_NK=chunk.score_NK[:, self._columns], cells_NK=cells_NK)

    def _derive(self, score_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        return score_MNJ[0][:, self._columns]


def reorder(source: GradeSource, labels: LabelSet) -> GradeSource:
    """`source` with its labels in the order of `labels`.

    Raises:
        InputError: The names differ.
    """
    return source if source.labels == labels else ReorderedSource(source, labels)
