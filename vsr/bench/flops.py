"""How many floating-point operations a step needs: the speed-up that sharing a prompt allows at most.

Counted as two for a multiplication and addition, over the language model:
- a token through a linear layer of n weights: 2 n forward; as much again backward for the gradient of its input, the
  base being frozen; LoRA's own weights (r rows and columns a layer) both, and 2 n more for their gradients;
- a query meeting a key: 4 d for each head of size d forward (scores and values), 8 d backward;
- a predicted token through the head: 2 times hidden size times vocabulary forward, as much backward.
A causal sequence of n tokens has n^2 / 2 meetings. Norms, activations and rotations are left out."""

from dataclasses import dataclass

from transformers import Qwen2VLConfig


@dataclass(frozen=True)
class Work:
    """Tokens through the layers, meetings of query and key, tokens through the head."""

    tokens: float
    meetings: float
    predicted: float


def shared(prompt: int, group: int, length: int) -> Work:
    """A prompt once, `group` branches of `length` tokens."""
    meetings = prompt**2 / 2 + group * (length * prompt + length**2 / 2)
    return Work(prompt - 1 + group * length, meetings, group * length)


def repeated(prompt: int, group: int, length: int) -> Work:
    """The prompt with every completion."""
    tokens = prompt + length - 1
    return Work(group * tokens, group * tokens**2 / 2, group * length)


def flops(config: Qwen2VLConfig, work: Work, rank: int, *, backward: bool = False, adapter: bool = True) -> float:
    """Operations of a forward pass, or of a forward and a backward pass."""
    text = config.text_config
    size = text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * size, text.num_key_value_heads * size
    shapes = [(text.hidden_size, queries), (queries, text.hidden_size), *[(text.hidden_size, keys)] * 2]
    shapes += [(text.hidden_size, text.intermediate_size)] * 3
    weights = text.num_hidden_layers * sum(a * b for a, b in shapes)
    lora = text.num_hidden_layers * sum(rank * (a + b) for a, b in shapes) if adapter else 0
    token, meeting = 2 * (weights + lora), 4 * queries * text.num_hidden_layers
    predicted = 2 * text.hidden_size * text.vocab_size
    if backward:
        token, meeting, predicted = 2 * token + 2 * lora, 3 * meeting, 2 * predicted
    return work.tokens * token + work.meetings * meeting + work.predicted * predicted


def limits(config: Qwen2VLConfig, prompt: int, group: int, length: int, rank: int) -> tuple[float, float]:
    """Naive over shared: of scoring and update (the reference's forward, the policy's forward and backward), and of
    the whole step, where a rollout costs a forward pass over its tokens."""
    language, step = [], []
    for layout in (repeated, shared):
        work = layout(prompt, group, length)
        scoring = flops(config, work, rank, adapter=False)
        language.append(scoring + flops(config, work, rank, backward=True))
        step.append(language[-1] + flops(config, work, rank))
    return language[0] / language[1], step[0] / step[1]
