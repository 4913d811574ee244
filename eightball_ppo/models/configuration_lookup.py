"""Configuration of the lookup classifier. Self-contained: this file travels to the Hub beside the weights."""

from transformers import PretrainedConfig


class LookupConfig(PretrainedConfig):
    """Configuration of [`LookupForSequenceClassification`].

    Args:
        base (`dict`): Configuration of the classifier that answers questions that are not in the table.
        memories (`int`): Number of questions in the table.
        memory_length (`int`): Tokens of the longest of them.
    """

    model_type = "eightball_lookup"

    def __init__(self, base: dict | None = None, memories: int = 0, memory_length: int = 1, **kwargs):
        self.base = base or {}
        self.memories = memories
        self.memory_length = memory_length
        super().__init__(**kwargs)
