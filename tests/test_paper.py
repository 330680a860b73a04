"""The paper's data: complete, consistent with itself, and equal to the notes it was taken from."""

import pytest

from vsr import paper


@pytest.fixture(scope="module")
def notes(shared) -> str:
    path = shared.parent / "paper.md"
    if not path.is_file():
        pytest.skip("needs the notes on the paper, which are not part of the project")
    return path.read_text()


def test_tables_are_complete():
    assert [len(paper.TABLE_1), len(paper.TABLE_2)] == [6, 18]
    assert all(len(row.scores) == len(paper.TASKS) == 8 for row in paper.TABLE_1 + paper.TABLE_2)
    assert [claim.number for claim in paper.CLAIMS] == list(range(1, 11))


def test_six_tasks_are_trained():
    assert {part.task for part in paper.VSI_100K} == set(paper.TRAINED)


def test_vsi_100k_adds_up_to_the_papers_more_than_100k():
    assert sum(float(part.samples.removesuffix("k")) for part in paper.VSI_100K) == pytest.approx(116.9)


@pytest.mark.parametrize("backbone", ["Qwen2-VL-2B", "Qwen2-VL-7B"])
def test_both_tables_print_the_same_base_row(backbone):
    first = paper.published(backbone, "base", "vanilla", paper.TABLE_1)
    second = paper.published(backbone, "base", "vanilla", paper.TABLE_2)
    assert (first.average, first.scores) == (second.average, second.scores)


def test_claimed_gain_is_the_difference_of_the_printed_rows():
    gain = paper.published("Qwen2-VL-2B", "vsGRPO-V", "vanilla").average
    assert gain - paper.published("Qwen2-VL-2B", "base", "vanilla").average == pytest.approx(12.1)


def test_every_number_is_the_noted_one(notes):
    lines = [line for line in notes.splitlines() if line.startswith("|")]
    printed = {"vanilla": "V", "think": "T", "observe": "O"}
    for row in paper.TABLE_1 + paper.TABLE_2:
        mode = row.mode if row.where == "Table 1" else printed[row.mode]
        label = row.backbone if row.method == "base" else f"+ {row.method}"
        numbers = " | ".join(str(number) for number in (row.average, *row.scores))
        assert f"| {label} | {mode} | {numbers} |" in lines


def test_every_prompt_is_the_noted_one(notes):
    for prompts in (paper.EVALUATION_PROMPTS, paper.TRAINING_PROMPTS):
        for mode, text in prompts.items():
            assert f"| {mode} | {text} |" in notes
    for text in (paper.HARNESS_PRE, paper.HARNESS_NUMERICAL_POST, paper.HARNESS_CHOICE_POST):
        assert f"`{text}`" in notes


def test_every_dataset_example_is_the_noted_one(notes):
    for part in paper.VSI_100K:
        assert f"| {part.samples} |" in notes
        assert f"{part.example[0]} -> {part.example[1]} |" in notes
