"""How much goes through the model at once: memory is bounded by a number of tokens, not by luck."""

from vsr.errors import VsrError

Part = tuple[int, list[int]]  # a group and which of its completions


def batches(sizes: list[int], budget: int) -> list[list[int]]:
    """Consecutive indices in lists whose `sizes` sum to at most `budget`; one that is larger alone stands alone."""
    found: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not found or size > room:
            found, room = [*found, []], budget
        found[-1].append(index)
        room -= size
    return found


def passes(prompts: list[int], completions: list[list[int]], budget: int) -> list[list[Part]]:
    """Forward passes of at most `budget` tokens over all groups, given the length of each prompt and completion.

    Small groups share a pass; a group that is too large is split, its prompt repeated. Raises VsrError where a prompt
    with a single completion is too large."""
    parts: list[Part] = []
    sizes: list[int] = []
    for group, (prompt, lengths) in enumerate(zip(prompts, completions, strict=True)):
        if prompt + max(lengths) > budget:
            raise VsrError(
                f"a prompt of {prompt} tokens with a completion of {max(lengths)} exceeds token_budget={budget}; "
                "raise it, or lower frames, max_pixels or max_completion_length"
            )
        for members in batches(lengths, budget - prompt):
            parts.append((group, members))
            sizes.append(prompt + sum(lengths[i] for i in members))
    return [[parts[i] for i in batch] for batch in batches(sizes, budget)]
