"""Training samples: plain rows in TRL's columns, and the prompt the model reads for each."""

from collections.abc import Callable
from pathlib import Path

from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase

from vsr.engine.inputs import Prompt
from vsr.errors import VsrError
from vsr.prompts import messages, render
from vsr.questions.question import Question

See = Callable[[Path], tuple[Tensor, LongTensor]]  # video -> features (tokens, hidden size), grid (1, 3)


def sample(question: Question, video: Path | None, mode: str) -> dict:
    """One row: `id`, `prompt` (the paper's training prompt, section 3.2, as a conversation), `video` and the columns
    that rewards read."""
    return {
        "id": question.id,
        "prompt": messages(question, mode, stage="train", video=video is not None),
        "video": None if video is None else str(video),
        "question_type": question.question_type,
        "ground_truth": question.ground_truth,
        "options": question.options,
    }


def read_prompt(row: dict, tokenizer: PreTrainedTokenizerBase, see: See) -> Prompt:
    """The prompt of a row with its video's features; a video that cannot be read is a VsrError naming the sample."""
    try:
        features, grid = (None, None) if row["video"] is None else see(Path(row["video"]))
        return Prompt(render(tokenizer, row["prompt"], grid), features, grid)
    except VsrError as error:
        raise VsrError(f"sample '{row['id']}': {error}") from None


def check_rows(rows: list[dict]) -> None:
    """Raise VsrError unless all rows have the same columns: an id of its own, prompt, video (or None), and others."""
    if not rows:
        raise VsrError("no training samples; build some with 'vsr build'")
    columns, seen = rows[0].keys(), set()
    for number, row in enumerate(rows):
        missing = ({"id", "prompt", "video"} | columns) - row.keys()
        if missing:
            raise VsrError(f"training sample {number} ({row.get('id')}): column '{min(missing)}' is missing")
        if row["id"] in seen:
            raise VsrError(f"training sample {number}: id '{row['id']}' occurs twice")
        seen.add(row["id"])
