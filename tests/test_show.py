"""What notebooks display reads as text: no raw records, no empty code marks, no line ends inside intervals."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest
from grpo_setup import small_study

from vsr import markdown, runs, video
from vsr.errors import VsrError
from vsr.files import write_jsonl
from vsr.questions.dataset import load
from vsr.questions.question import write_questions
from vsr.report import show, styled, tables
from vsr.report.styled import Scores
from vsr.scoring.intervals import Value
from vsr.train import STAGES


def test_an_empty_answer_is_named():
    row = {"id": 1, "question_type": "route_planning", "ground_truth": "C"}
    text = show.answers({"true": [row | {"response": ""}], "none": [row | {"response": "B"}]}).data
    assert text.splitlines()[-1] == "| route_planning | C | *empty* | `B` |"


def test_an_interval_is_small_and_never_broken():
    part = {"score": 5.0, "low": 1.0, "high": 9.0}
    ends = {f"{key}{end}": part[end[1:] or "score"] for key in ("overall", "trained") for end in ("", "_low", "_high")}
    found = show.scores({"base": ends | {"tasks": {"object_counting": part}}})
    assert found._repr_html_().count("5.0<br><small>[1.0,&nbsp;9.0]</small>") == 2
    assert repr(found).splitlines()[-1] == "| base | 5.0 [1.0, 9.0] | 5.0 [1.0, 9.0] |"
    text = show.table(("what", "it says"), [("two words", "+1.0 [-0.5, +2.5] points")]).data
    assert text.splitlines()[-1] == "| two\u00a0words | +1.0 <small>[-0.5,\u00a0+2.5]</small> points |"


def test_printed_markdown_is_the_same_table():
    text = "a title\n\n| row | says |\n| --- | --- |\n| a b | c \\| d |\n\nand a note"
    assert show.from_markdown(text).data.replace("\u00a0", " ").splitlines() == text.splitlines()
    heads = [f"c{i}" for i in range(11)]
    wide = markdown.table(heads, [range(11), range(11, 22)])
    assert show.from_markdown(wide).data == markdown.table(
        ("c0", "0", "11"), zip(heads[1:], range(1, 11), range(12, 22), strict=True)
    ).removesuffix("\n")


def lines_of(html: str) -> list[list[str]]:
    rows = re.findall("<tr>(.*?)</tr>", html, re.DOTALL)
    return [re.findall("<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def test_the_highest_of_a_block_is_bold_and_blocks_are_apart():
    ours = [("base", {"overall": Value(20.0, 10, 30)}), ("SFT", {"overall": Value(25.0)})]
    blocks = {"Ours": ours, "The paper, 2B": [("base", {"overall": Value(40.0)}), ("GRPO", {})]}
    html = Scores("", {"overall": "avg"}, blocks, ("overall",))._repr_html_()
    assert lines_of(html) == [
        ["", "avg"],
        ["<b>Ours</b>", ""],
        ["base", "20.0<br><small>[10.0,&nbsp;30.0]</small>"],
        ["SFT", "<b>25.0</b>"],
        ["<b>The&nbsp;paper,&nbsp;2B</b>", ""],
        ["base", "40.0"],  # alone in its block
        ["GRPO", "not run"],
    ]
    assert html == Scores("", {"overall": "avg"}, blocks, ("overall",))._repr_html_()


def test_a_table_of_the_report_has_ten_columns_at_most(tmp_path):
    for made in (tables.table_1(tmp_path), tables.table_2(tmp_path), tables.honesty(tmp_path)):
        views = styled.views(made)
        assert all(len(view.columns) < 10 for view in views)
        columns = {column for view in views for column in view.columns}
        assert columns >= made.columns.keys() - {"trained"}
        assert all(sum(map(len, view.blocks.values())) == len(made.rows) for view in views)


def test_rollouts_stand_beside_their_video(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    profile, folder = small_study(tmp_path)
    data, path = load(folder.rename(tmp_path / "train")), tmp_path / "run"
    inputs = {"questions": data.questions.fingerprint()}
    run = runs.Run.open(tmp_path, "run", STAGES["grpo"], profile, about={}, inputs=inputs, seed=0)
    question = data.questions[0]
    row = {"step": 2, "id": question.id, "truth": "1", "completion": "<think>2", "reward": 0.5, "advantage": -0.25}
    write_jsonl(path / "completions.jsonl", [row, row | {"completion": " "}, row | {"step": 3}])
    run.finish(data=str(tmp_path))
    text = show.rollouts(path, 2).data
    assert text.count("<tr>") == 3
    assert "<td>&lt;think&gt;2</td><td>0.50</td><td>-0.25</td>" in text
    assert "<td>(empty)</td>" in text
    assert question.question in text
    (code,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(code))))
    frame = video.decode(data.video_path(question.scene_name), 8)[5]  # second row, second from the left
    tile = np.asarray(PIL.Image.fromarray(frame).resize((160, sheet.shape[0] // 2)))
    assert (sheet[sheet.shape[0] // 2 :, 160:320] == tile).all()
    write_questions(tmp_path / "train" / "questions.jsonl", data.questions[1:])
    assert "not on this machine" in show.rollouts(path, 2).data
    with pytest.raises(VsrError, match="no rollouts of step 9"):
        show.rollouts(path, 9)
