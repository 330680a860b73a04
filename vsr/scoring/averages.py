"""How scores become averages: by question type, by task, over all questions; each on the sample and on bootstrap draws.

Everything works on `Sums`: question type -> (sum of scores, number of questions), both () for the sample itself and
(R,) for R bootstrap draws. A draw without any question of a type has no mean for it (nan), never 0.
"""

from collections.abc import Callable

import numpy as np

from vsr.paper import TASKS, TRAINED

DIRECTION = "object_rel_direction"
LEVELS = tuple(f"{DIRECTION}_{level}" for level in ("easy", "medium", "hard"))
NUMERICAL_TASKS = tuple(TASKS)[:4]

Means = dict[str, np.ndarray]
Sums = dict[str, tuple[np.ndarray, np.ndarray]]


def means(sums: Sums) -> Means:
    """The mean score by question type."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {kind: np.asarray(total / count) for kind, (total, count) in sums.items()}


def mean_of(parts: list[np.ndarray]) -> np.ndarray:
    """The mean over parts, those without a value left out; nan if none has one."""
    stacked = np.stack(parts)
    present = ~np.isnan(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(present, stacked, 0.0).sum(0) / present.sum(0))


def pooled(sums: Sums) -> np.ndarray:
    """The mean over all questions, whatever their type."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values()))


def levels(sums: Sums) -> np.ndarray:
    """The mean of the levels' means."""
    return mean_of(list(means(sums).values()))


def levels_or_zero(sums: Sums) -> np.ndarray:
    """The mean of the levels' means, 0 if a level has no question."""
    return levels(sums) if set(LEVELS) <= set(sums) else np.zeros_like(levels(sums))


def task_means(sums: Sums, direction: Callable[[Sums], np.ndarray] = levels) -> Means:
    """Means by official task, in the official order; relative direction's levels become one by `direction`."""
    found = means({kind: pair for kind, pair in sums.items() if not kind.startswith(DIRECTION)})
    directions = {kind: pair for kind, pair in sums.items() if kind.startswith(DIRECTION)}
    if directions:
        found[DIRECTION] = direction(directions)
    return {task: found[task] for task in TASKS if task in found}


def trained(tasks: Means) -> np.ndarray:
    """The mean of the means of the paper's six tasks; nan if none of them was asked."""
    nothing = np.full_like(next(iter(tasks.values())), np.nan)
    return mean_of([tasks[task] for task in TRAINED if task in tasks] or [nothing])


def official(sums: Sums, over: str) -> np.ndarray:
    """The official metric over everything (overall), the six trained tasks (trained) or one task; nan if not asked."""
    tasks = task_means(sums)
    if over in ("overall", "trained"):
        return mean_of(list(tasks.values())) if over == "overall" else trained(tasks)
    return tasks.get(over, np.full_like(next(iter(tasks.values())), np.nan))


Average = Callable[[Sums, Means], np.ndarray]  # of the sums by question type and the means by task


def macro(sums: Sums, tasks: Means) -> np.ndarray:
    """The mean of the tasks' means."""
    return mean_of(list(tasks.values()))


def micro(sums: Sums, tasks: Means) -> np.ndarray:
    """The mean over all questions."""
    return pooled(sums)


def choice_micro(sums: Sums, tasks: Means) -> np.ndarray:
    """The mean over all questions that ask for no number."""
    return _part(sums, numerical=False)


def numerical_micro(sums: Sums, tasks: Means) -> np.ndarray:
    """The mean over all questions that ask for a number."""
    return _part(sums, numerical=True)


def mean_of_micros(sums: Sums, tasks: Means) -> np.ndarray:
    """The mean of the two: of numbers and of everything else."""
    return mean_of([_part(sums, numerical=True), _part(sums, numerical=False)])


def _part(sums: Sums, numerical: bool) -> np.ndarray:
    part = {kind: pair for kind, pair in sums.items() if (kind in NUMERICAL_TASKS) == numerical}
    return pooled(part) if part else np.full_like(next(iter(sums.values()))[0], np.nan, dtype=float)
