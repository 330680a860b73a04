"""The command line: help a newcomer understands, mistakes named, exit codes that schedulers read."""

import pytest
from test_runs import fill, open_run

from vsr import cli, runs


def fails(capsys, *words: str) -> str:
    """The message of a command that must end with exit code 2."""
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    commands = "run notebooks doctor build agree check-video evaluate train status clean estimate export report score"
    for command in (*commands.split(), "pretrain", "diagnose", "bench"):
        assert shown.partition(f"\n    {command}")[2][:1].isspace()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--profile", "tinny"], "unknown profile 'tinny': did you mean 'tiny'?"),
        (["run", "--set", "num_generation=4"], "unknown setting 'num_generation': did you mean 'num_generations'?"),
        (["run", "--set", "seed"], "--set seed: expected key=value"),
        (["run", "--only", "42"], "unknown notebook '42'"),
        (["build", "metainfo"], "--scenes FILE is missing"),
        (["agree", "--scenes", "none.json", "--questions", "none.jsonl"], "none.json"),
        (["evaluate", "--bench", "nowhere"], "nowhere: no such folder"),
        (["score", "--predictions", "none.jsonl"], "none.jsonl: no such file"),
        (["export", "--adapter", "nowhere", "--out", "new"], "adapter 'nowhere': no adapter_config.json there"),
        (["train", "sft", "--mode", "think"], "--mode think: it is for grpo"),
        (["train", "sft", "--gpus", "1000"], "gpus=1000: this machine has"),
        (["run", "--gpus", "1000"], "gpus=1000: this machine has"),
        (["evaluate", "--gpus", "1000"], "gpus=1000: this machine has"),
        (["status", "--out", "nowhere"], "nowhere: no such folder"),
        (["train", "grpo", "--report-to", "tracki"], "unknown tracker 'tracki': did you mean 'trackio'"),
        (["train", "grpo", "--compute-of", "run"], "--compute-of: it is for sft and dpo"),
    ],
)
def test_mistakes_name_file_value_and_remedy(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *words)
    assert not list(tmp_path.rglob("*.json*"))  # nothing half-written


def test_agree_ends_with_an_error_when_a_scene_is_broken(capsys, tmp_path):
    broken = tmp_path / "meta.json"
    broken.write_text(
        '{"scene0000_00": {"dataset": "scannet", "room_size": NaN, "object_counts": {}, "object_bbox": {}}}'
    )
    message = fails(
        capsys, "agree", "--scenes", str(broken), "--questions", str(broken), "--out", str(tmp_path / "out")
    )
    assert "scene0000_00" in message
    assert "room_size" in message


def test_clean_lists_and_removes_only_when_told(capsys, tmp_path):
    fill(open_run(tmp_path), "paid for")
    fill(open_run(tmp_path, mode="think"), "current")
    assert cli.main(["clean", "--out", str(tmp_path)]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert (kept := open_run(tmp_path).path / "samples.jsonl").read_text() == "paid for"
    assert cli.main(["clean", "--out", str(tmp_path), "--yes"]) == 0
    assert runs.earlier(tmp_path) == []
    assert kept.read_text() == "paid for"
    assert cli.main(["clean", "--out", str(tmp_path)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
