"""Cached vision features: the tower's own, computed once, remade when anything they depend on changes."""

import multiprocessing

import pytest
import torch
from small import write_video
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vsr.engine import inputs
from vsr.engine.inputs import FeatureCache, vision_hash
from vsr.errors import VsrError
from vsr.video import decode, patchify


def vision_model(seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """A random model whose patches are as large as the real one's."""
    torch.manual_seed(seed)
    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}  # fmt: skip
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).eval()


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "room.mp4")


def test_features_are_the_towers_and_computed_once(video, tmp_path, monkeypatch):
    model = vision_model()
    pixels, grid = patchify(decode(video, 4), 84 * 112)
    with torch.no_grad():
        expected = model.model.get_video_features(pixels, grid).pooler_output[0]
    first = FeatureCache(model, tmp_path / "cache", 4, 84 * 112)(video)
    monkeypatch.setattr(inputs, "video_features", None)  # a second computation would fail
    again = FeatureCache(model, tmp_path / "cache", 4, 84 * 112)(video)
    for found in (first, again):
        torch.testing.assert_close(found.features, expected)
        assert torch.equal(found.grid, grid)
        assert found.step is found.stamps is None


def test_whatever_changes_the_features_changes_the_name(video, tmp_path):
    other = write_video(tmp_path / "other.mp4", seed=1)
    caches = [
        FeatureCache(vision_model(seed), tmp_path / "cache", frames, pixels)
        for seed, frames, pixels in [(0, 4, 84 * 112), (1, 4, 84 * 112), (0, 2, 84 * 112), (0, 4, 56 * 84)]
    ]
    for cache in caches:
        cache(video)
    caches[0](other)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 5
    renamed = video.rename(tmp_path / "renamed.mp4")
    caches[0](renamed)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 5


def test_dtype_is_part_of_the_hash():
    assert vision_hash(vision_model()) != vision_hash(vision_model().to(torch.bfloat16))
    assert vision_hash(vision_model()) == vision_hash(vision_model())


def test_damaged_file_is_made_again(video, tmp_path):
    cache = FeatureCache(vision_model(), tmp_path / "cache", 4, 84 * 112)
    expected = cache(video).features
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(cache(video)[0], expected)
    assert torch.equal(cache(video)[0], expected)


def test_features_do_not_hang_on_the_number_of_threads(video, tmp_path):
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(FeatureCache(vision_model(), tmp_path / str(threads), 4, 84 * 112)(video).features)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_missing_or_broken_video_is_named(content, tmp_path):
    path = tmp_path / "gone.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VsrError, match=r"gone\.mp4"):
        FeatureCache(vision_model(), tmp_path / "cache", 4, 84 * 112)(path)


def _see(video, folder, queue):
    torch.set_num_threads(1)
    cache = FeatureCache(vision_model(), folder, 4, 84 * 112)
    queue.put([float(cache(video)[0].sum()) for _ in range(20)])


@pytest.mark.slow
def test_several_processes_share_a_folder(video, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_see, args=(video, tmp_path / "cache", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({value for row in sums for value in row}) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
