"""What a task module proposes: a question before its options have letters and before it is chosen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Draft:
    """`answer` is the text of the truth. `choices` are the texts to choose from, the answer among them, in no
    meaningful order; empty for numbers and free-form answers. A `question` that lists its choices says {options} in
    their place. Drafts of one type are chosen so that the values of `balance` are equally frequent (None: no
    preference)."""

    question_type: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    balance: str | None = None
