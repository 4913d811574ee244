"""Configuration of the mean-pooled classifier. Self-contained: this file travels to the Hub beside the weights."""

from transformers import PretrainedConfig


class MeanPooledConfig(PretrainedConfig):
    """Configuration of [`MeanPooledForSequenceClassification`].

    Args:
        encoder (`dict`): Configuration of the encoder, of an architecture that transformers has.
        head_hidden_size (`int`, *optional*, defaults to 0): Width of the hidden layer of the head; 0: a linear head.
        frozen (`bool`, *optional*, defaults to `False`): Whether the encoder was a fixed reader in training.
    """

    model_type = "eightball_mean_pooled"

    def __init__(self, encoder: dict | None = None, head_hidden_size: int = 0, frozen: bool = False, **kwargs):
        self.encoder = encoder or {}
        self.head_hidden_size = head_hidden_size
        self.frozen = frozen
        super().__init__(**kwargs)

    @property
    def max_position_embeddings(self) -> int | None:
        """The tokens that the encoder has positions for."""
        return self.encoder.get("max_position_embeddings")
