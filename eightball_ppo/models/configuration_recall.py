"""Configuration of the classifier that remembers. Self-contained: this file travels to the Hub beside the weights."""

from transformers import PretrainedConfig


class LookupConfig(PretrainedConfig):
    """What [`LookupForSequenceClassification`] is made of.

    Args:
        base (`dict`): configuration of the classifier that answers questions that are not remembered.
        memories (`int`): remembered questions.
        memory_length (`int`): tokens of the longest of them.
    """

    model_type = "eightball_recall"

    def __init__(self, base: dict | None = None, memories: int = 0, memory_length: int = 1, **kwargs):
        self.base = base or {}
        self.memories = memories
        self.memory_length = memory_length
        super().__init__(**kwargs)
