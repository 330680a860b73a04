"""Pre-training of the miniature: labels against the scenes, packing against one-by-one, the shipped checkpoint."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rays import project
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from vsr import models, paper, profiles, prompts
from vsr.engine.inputs import embed, positions
from vsr.miniature import corpus, diagnose, rooms, vision
from vsr.miniature.corpus import Corpus, Item
from vsr.miniature.language import BEFORE_RESPONSE, GRID, TALLY, Objective, Packer, _sectors
from vsr.miniature.pretrain import pretrain
from vsr.miniature.procedural import SPLITS, STUDY, make_room
from vsr.miniature.training import Muon, Optimiser, keep, new_model, orthogonal, take_up
from vsr.miniature.vision import encode
from vsr.models import folders
from vsr.questions import tasks
from vsr.questions.question import Question
from vsr.questions.rules import VSIBENCH
from vsr.scenes.geometry import turn_angle
from vsr.scoring.rewards import format as follows
from vsr.scoring.rewards import is_shell
from vsr.video import patchify

torch.set_num_threads(1)
COUNT = 3


@pytest.fixture(scope="module")
def scenes():
    return [make_room(SPLITS["pretrain"] + seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def data(scenes):
    rows = [rooms.room_arrays(scene, seed) for seed, scene in enumerate(scenes)]
    return rooms.Rooms(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.new_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return new_model(tokenizer, 0).eval()


@pytest.fixture(scope="module")
def truth(data):
    return rooms.label(data)


@pytest.fixture(scope="module")
def asked(data):
    rng = np.random.default_rng(0)
    return Corpus(data, [corpus.draft(data, i, rng) for i in range(COUNT)])


# the tokenizer


@given(text=st.text(max_size=60))
@settings(max_examples=100)
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("mode", list(paper.EVALUATION_PROMPTS))
@pytest.mark.parametrize("stage", ["evaluate", "train"])
def test_prompts_are_short_and_exact(tokenizer, mode, stage):
    asked = VSIBENCH.templates["object_rel_distance"].fill(options="bed, sofa, tv, lamp", target="chair")
    question = Question("", "", "", "object_rel_distance", asked, ("A. bed", "B. sofa", "C. tv", "D. lamp"), "A")
    chat = prompts.messages(question, mode, stage)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = prompts.render(tokenizer, chat, GRID)
    video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert (ids == video).sum() == 48
    assert tokenizer.decode(ids[ids != video]) == text.replace("<|video_pad|>", "")
    assert len(ids) - 48 < 50


def test_numbers_are_one_token(tokenizer):
    numbers = ["4", "37", "400", "0.4", "3.2", "12.0", "79.9"]
    assert [len(ids) for ids in tokenizer(numbers)["input_ids"]] == [1] * len(numbers)


# rooms and labels


def test_rooms_keep_what_questions_need(scenes, data):
    """The room read back from the arrays answers every question as the room itself does."""
    for index, scene in enumerate(scenes):
        kept = data.scene(index)
        rng = np.random.default_rng(0)
        for kind in ("object_size_estimation", "room_size_estimation", "object_counting", "object_rel_direction_hard"):
            for draft in tasks.drafts(kind, scene, VSIBENCH, rng, None):
                question = Question("", "", "", kind, draft.question, None, "")
                assert tasks.truth(kept, VSIBENCH, question) == draft.answer


def test_labels_point_at_the_object(scenes, truth):
    """An object's token is the one that its centre projects to, or a neighbour where part of it is hidden."""
    far = []
    for index, scene in enumerate(scenes):
        for slot, box in enumerate(scene.objects):
            view, cell = divmod(int(truth.home[index, slot]), 6)
            column, row, _ = project(scene.camera, view * STUDY.hold, box.center[None], 56, 84)[0]
            far.append(max(abs(column - (cell % 2 + 0.5) * 28), abs(row - (cell // 2 + 0.5) * 28)) > 28)
    assert np.mean(far) < 0.05
    assert (truth.home >= 0).sum() == sum(len(scene.objects) for scene in scenes)


def test_labels_count_each_object_once_and_are_metres(scenes, data, truth):
    present = rooms.presence(truth).sum(1)
    for index, scene in enumerate(scenes):
        assert present[index].tolist() == [scene.counts.get(label, 0) for label in STUDY.categories]
        east, north, west, south = data.walls[index]
        assert math.isclose((east + west) * (north + south), scene.room_size, rel_tol=1e-5)
        for slot, box in enumerate(scene.objects):
            value = dict(zip(rooms.VALUES, truth.values[index, slot].tolist(), strict=True))
            offset = box.center[:2] - scene.camera.position[0, :2]
            assert np.allclose([2 * value["x"], 2 * value["y"]], offset, atol=1e-5)
            assert math.isclose(math.exp(value["log_longest"]), box.size.max(), rel_tol=1e-5)
            spread = np.ptp(box.corners(), axis=0)
            assert np.allclose([2 * value["reach_x"], 2 * value["reach_y"]], spread[:2], atol=1e-4)


# vision


def test_fast_vision_equals_the_tower(model, data):
    frames = np.repeat(data.frames[0], 2, axis=0)
    pixels, grid = patchify(frames, 84 * 56)
    with torch.no_grad():
        slow = model.model.visual(pixels, grid).pooler_output
        fast = vision.features(model.model.visual, data.frames[:1])[0]
    assert torch.allclose(slow, fast, atol=1e-4)


def test_views_do_not_mix(model, data):
    frames = torch.from_numpy(data.frames[0])
    with torch.no_grad():
        together, alone = (encode(model.model.visual, some) for some in (frames, frames[3:4]))
    assert torch.allclose(together[3], alone[0], atol=1e-5)


# optimiser


def test_muon_turns_and_does_not_stretch():
    generator = torch.Generator().manual_seed(0)
    for shape in ((16, 40), (40, 16)):
        singular = torch.linalg.svdvals(orthogonal(torch.randn(2, *shape, generator=generator)))
        assert (singular > 0.5).all()
        assert (singular < 1.4).all()
    # a step's size is its rate, whatever the gradient's
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 100
    Muon([weight], lr=0.1).step()
    assert 0.05 < torch.linalg.matrix_norm(weight.detach(), 2) < 0.14


def test_optimiser_state_survives(tmp_path):
    def run(stop):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 4)
        path = tmp_path / "state.pt"
        optimiser = Optimiser([layer], [], 0.02, 0.01, decay=0.5)
        for step in range(take_up(path, {"layer": layer}, optimiser), 6):
            if step == stop:
                break
            optimiser.step((layer(torch.eye(4)) ** 2).sum(), step / 6, 1.0)
            keep(path, step + 1, {"layer": layer}, optimiser)
        return layer.weight.detach()

    run(3)
    continued = run(None)
    (tmp_path / "state.pt").unlink()
    assert torch.equal(continued, run(None))


# language


def test_items_are_true(data, asked):
    """Letters and words agree with the rules of the study on the room itself."""
    rng = np.random.default_rng(0)
    weights = dict.fromkeys([kind for kind in asked.drafts[0] if kind.startswith("letter rel")], 1.0)
    for _ in range(60):
        item = asked.item(0, weights, 0.0, rng)
        lines = item.prompt.split("\n")
        start = lines.index("Options:")
        words = {line[0]: line[3:] for line in lines[start + 1 : -2]}
        question = "\n".join(lines[:start])
        kind = next(k for k, t in VSIBENCH.templates.items() if t.read(question))
        truth = tasks.truth(data.scene(0), VSIBENCH, Question("", "", "", kind, question, None, ""))
        assert words[item.response] == truth


def test_tagged_responses_follow_the_format(asked):
    rng = np.random.default_rng(1)
    weights = dict.fromkeys(asked.drafts[0], 1.0)
    items = [asked.item(0, weights, 1.0, rng) for _ in range(200)]
    tagged = [item for item in items if "<answer>" in item.response]
    assert 0.2 < len(tagged) / len(items) < 0.8
    assert all(follows(item.response, "think" if "<think>" in item.response else "observe") for item in tagged)
    assert 0 < sum(map(is_shell, (item.response for item in tagged))) < 0.15 * len(tagged)


def test_packed_questions_are_answered_as_alone(model, tokenizer, data, truth):
    """The loss of a packed row is the mean of transformers' own losses, question by question."""
    packer = Packer(model, tokenizer, truth)
    objective = Objective(model, tokenizer, packer.video)
    features = vision.features(model.model.visual, data.frames)
    items = [
        [Item("Where is the chair?\nAnswer briefly.", "left"), Item("Is the sofa near the bed?", "front-right back")],
        [Item("How many lamp(s) are in this room?\nAnswer briefly.", "right")],
    ]
    with torch.no_grad():
        ours = objective(packer.pack([0, 1], items, features[:2]))["answer"]
        pairs = [(item, features[row]) for row, asked in enumerate(items) for item in asked]
        losses = [loss for item, seen in pairs for loss in _alone(model, tokenizer, packer, item, seen)]
    assert math.isclose(float(ours), float(torch.stack(losses).mean()), rel_tol=1e-4)


def test_every_head_that_counts_has_a_sector_to_itself(model, tokenizer, data, truth):
    """Of a question about one category, the sectors that hold it are as many as the columns of views that show it; all
    others look at the first token."""
    packer = Packer(model, tokenizer, truth)
    labels = [next(iter(data.scene(room).counts)) for room in range(2)]
    features = vision.features(model.model.visual, data.frames[:2])
    batch = packer.pack([0, 1], [[Item(f"How many {label}(s) are in this room?", "2")] for label in labels], features)
    wanted = _sectors(batch, torch.stack([batch.last[:, 0], batch.mention[:, 0]], 1), packer.video)
    heads = 6 * len(TALLY) - TALLY[0][0]
    assert wanted.shape[1] == heads
    for room, label in enumerate(labels):
        homes = truth.home[room][truth.kind[room] == rooms.LABELS.index(label)]
        columns = {(int(home) // 6, int(home) % 2) for home in homes}
        looks = {int(sector) for sector in (wanted[room, :, 0] == 0).nonzero()[:, 0]}
        assert looks == {2 * view + column for view, column in columns}
        assert wanted[room, :, packer.video :].sum() == len(set(homes.tolist()))


def _alone(model, tokenizer, packer, item, features):
    prompt = packer.prompt(item)
    answer = torch.tensor(tokenizer(item.response + folders.END)["input_ids"])
    ids = torch.cat([prompt, answer])
    out = model(
        inputs_embeds=embed(model, ids, features)[None],
        position_ids=positions(model, ids, GRID)[:, None],
        use_cache=False,
    )
    logp = out.logits[0].log_softmax(-1)
    return [-logp[len(prompt) - 1 + k, token] for k, token in enumerate(answer)]


def test_packer_prompt_is_the_studys(model, tokenizer, truth):
    """What pre-training packs is token for token what the evaluation asks."""
    packer = Packer(model, tokenizer, truth)
    question = Question("", "", "", "object_counting", "How many chair(s) are in this room?", None, "2")
    asked = prompts.render(tokenizer, prompts.messages(question, "vanilla"), GRID)
    item = Item(f"{question.question}\n{paper.EVALUATION_PROMPTS['vanilla']}", "2")
    assert packer.prompt(item).tolist() == asked.tolist()
    assert tokenizer.decode(asked).endswith(BEFORE_RESPONSE)


def test_numbers_share_their_target_with_neighbours(model, tokenizer):
    objective = Objective(model, tokenizer, 0)
    token = tokenizer.convert_tokens_to_ids
    near, far = token("2.1"), token("9.0")
    losses = []
    for favoured in (near, far):
        logits = torch.zeros(1, len(tokenizer))
        logits[0, favoured] = 5.0
        losses.append(float(objective._answer(logits, torch.tensor([token("2.0")]))))
    assert losses[0] < losses[1]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=3, unique=True))
@settings(max_examples=60)
def test_geometry_is_the_rules(points):
    place = torch.full((1, 5, 2), float("nan"))
    place[0, :3] = torch.tensor(points)
    gaps = [math.dist(points[a], points[b]) for a, b in ((0, 1), (0, 2))]
    if min(gaps) < 0.1:
        return
    told = rooms.geometry(place)[0]
    assert math.isclose(float(told[0].exp()), gaps[0], rel_tol=1e-4)
    angle = math.degrees(math.atan2(told[2], told[1])) % 360
    truth = float(turn_angle(*(np.array(point) for point in points)))
    assert min(abs(angle - truth), 360 - abs(angle - truth)) < 0.5
    assert told[3:].isnan().all()


# the diagnosis


def _asked(count=40):
    kinds = {"chair": "80", "lamp": "40"}
    text = VSIBENCH.templates["object_size_estimation"]
    return [
        Question(
            f"{room}-{name}", "rooms", f"room-{room}", "object_size_estimation", text.fill(label=name), None, truth
        )
        for room in range(count)
        for name, truth in kinds.items()
    ]


def test_lookup_knows_the_category_and_nothing_else():
    rows = diagnose.lookup(_asked())
    assert {row["response"] for row in rows} == {"80", "40"}
    assert all(row["score"] == 1 for row in rows)


def test_seeing_is_measured_against_blindness():
    asked = _asked()
    right = [{**question.__dict__, "response": question.ground_truth} for question in asked]
    rng = np.random.default_rng(0)
    blind = [{**row, "response": row["response"] if rng.random() < 0.5 else "1"} for row in right]
    rows = {"true": right, "shuffled": blind, "none": right, "sft": right, "solver": right}
    rows |= dict.fromkeys(("think", "observe", "constant"), right)
    told = diagnose.report(rows, profiles.get("tiny"))
    found = told["sees"]["shuffled"]["object_size_estimation"]
    assert 30 < found["points"] < 70
    assert 0 < found["low"] < found["points"] < found["high"]
    assert told["sees"]["none"]["object_size_estimation"]["points"] == 0
    assert told["trained"]["true"]["score"] == 100


# the command


@pytest.mark.slow
def test_smoke_run_makes_a_loadable_base_and_is_not_repeated(tmp_path):
    run = pretrain(tmp_path, 0, smoke=True)
    loaded = models.load(str(tmp_path / "base"))
    assert loaded.info["hash"] == run.manifest["model"]
    assert set(json.loads((run.path / "gates.json").read_text())) == {"see", "find", "ask", "letters"}
    before = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    assert pretrain(tmp_path, 0, smoke=True).finished
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == before


def test_shipped_base_is_small_finite_tied_and_what_its_manifest_says():
    base = folders.TINY_FOLDER
    if not (base / "model.safetensors").is_file():
        pytest.skip("the base is being made")
    assert (base / "model.safetensors").stat().st_size <= 12e6
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["hashes"]["model"] == folders.model_hash(base)
    assert "Qwen2VLForConditionalGeneration" in json.loads((base / "config.json").read_text())["architectures"]
    weights = load_file(str(base / "model.safetensors"))
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    model = Qwen2VLForConditionalGeneration.from_pretrained(base)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(AutoTokenizer.from_pretrained(base)) == model.config.text_config.vocab_size
