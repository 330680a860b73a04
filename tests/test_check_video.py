"""`vsr check-video`: what each family's model is given of a video, said in words."""

import importlib.util

import numpy as np
import pytest
from golden.make_families import sizes_of
from small import small_tokenizer

from vsr import cli
from vsr.families import QWEN3_VL
from vsr.models import folders
from vsr.video import write_mp4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The same sixty pictures at five rates."""
    folder = tmp_path_factory.mktemp("rates")
    pictures = np.random.default_rng(0).integers(0, 256, (60, 64, 96, 3), dtype=np.uint8)
    for fps in (1, 10, 24, 30, 60):
        write_mp4(folder / f"{fps}.mp4", pictures, fps)
    return folder


def shown(capsys, *words) -> tuple[str, dict[str, list[str]]]:
    """What is printed, and the table's rows."""
    assert cli.main(["check-video", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    rows = [line.strip("| \n").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return printed, {name: cells for name, *cells in rows}


@pytest.mark.parametrize(("fps", "step", "written"), [
    (1, "7.5", ["1.5", "57.0"]), (10, "0.75", ["0.1", "5.7"]), (24, "0.3125", ["0.1", "2.4"]),
    (30, "0.25", ["0.1", "1.9"]), (60, "0.125", ["0.0", "0.9"]),
])  # fmt: skip
def test_every_rate_has_its_own_times(videos, capsys, fps, step, written):
    printed, rows = shown(capsys, videos / f"{fps}.mp4")
    assert f"60 frames of 96x64, {fps} a second" in printed
    assert "picked: 0, 3, 7, 11, 15," in printed
    assert rows["seconds a step"] == ["none", step, "none"]
    times = rows["times written"][2].split()
    assert [times[0], times[-1]] == written
    places = [list(map(int, cell.split())) for cell in rows["positions in time"]]
    assert places[0] == list(range(7, 15))
    assert places[1] == sorted({7 + int(2 * float(step) * i) for i in range(8)})
    assert len(places[2]) == 8
    assert ("transformers' `generate` would go on" in printed) == (fps == 1)
    assert len(set(rows["hash of the input"])) == 3


def test_a_model_of_ones_own_with_its_tokenizer(videos, tmp_path, capsys):
    small_tokenizer().save_pretrained(tmp_path / "tokenizer")
    folder = folders.random_folder(tmp_path / "m", sizes_of(QWEN3_VL), tmp_path / "tokenizer")
    _, rows = shown(capsys, videos / "30.mp4", "--model", folder, "--set", "frames=4")
    assert rows["grid"] == ["2 x 2 x 4"]
    assert rows["times written"] == ["0.3 1.6"]
    assert cli.main(["check-video", str(tmp_path / "none.mp4")]) == 2
    assert "no such video" in capsys.readouterr().err


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is no dependency; see golden/")
@pytest.mark.parametrize("fps", [1, 10, 24, 30, 60])
def test_beside_the_installed_processor(videos, capsys, fps):
    printed, rows = shown(capsys, videos / f"{fps}.mp4")
    assert rows["transformers, told the same"] == ["equal"] * 3
    assert "Qwen3-VL: handed the frames alone" in printed
    assert "sampled a second time: 4 of the 16 frames are left" in printed
    assert "24 frames a second assumed for any video: 0.0833 s a step" in printed
