"""Configuration of the small classifier. Self-contained: this file travels to the Hub beside the weights."""

from transformers import PretrainedConfig


class EightBallConfig(PretrainedConfig):
    """Sizes of [`EightBallForSequenceClassification`]; the defaults are those of the original experiment.

    `initializer_range` was 1 there, PyTorch's default. From such a start the classifier memorises its questions and
    generalises little (docs/LOG.md).

    Args:
        vocab_size (`int`, *optional*, defaults to 30522): Rows of the embedding.
        embedding_size (`int`, *optional*, defaults to 16): Width of the embedding and of the attention layer.
        num_attention_heads (`int`, *optional*, defaults to 2): Heads; must divide `embedding_size`.
        hidden_size (`int`, *optional*, defaults to 32): Width of the layer between pooling and logits.
        initializer_range (`float`, *optional*, defaults to 0.1): Standard deviation of a new embedding.
        pad_token_id (`int`, *optional*, defaults to 0): Id of the padding token.
    """

    model_type = "eightball"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 16,
        num_attention_heads: int = 2,
        hidden_size: int = 32,
        initializer_range: float = 0.1,
        pad_token_id: int = 0,
        **kwargs,
    ):
        if embedding_size % num_attention_heads:
            raise ValueError(f"num_attention_heads {num_attention_heads} must divide embedding_size {embedding_size}")
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.num_attention_heads = num_attention_heads
        self.hidden_size = hidden_size
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)
