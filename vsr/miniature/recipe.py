"""How long to learn what: every number of the recipe."""

from dataclasses import dataclass

SIZES = {
    "text": {
        "hidden_size": 192,
        "intermediate_size": 448,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "mrope_section": [4, 6, 6],
    },
    "vision": {"embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_ratio": 4},
}

FIND = {
    "place": 1.0,
    "size_estimation": 1.0,
    "counting": 1.0,
    "room_size_estimation": 0.5,
    "free abs_distance": 1.0,
}
ASK = {
    "place": 1.0,
    "counting": 1.0,
    "size_estimation": 1.5,
    "room_size_estimation": 1.0,
    "abs_distance": 1.5,
    "free abs_distance": 1.5,
    "word rel_distance": 1.5,
    "free rel_distance": 1.5,
    "word rel_direction_easy": 0.5,
    "word rel_direction_medium": 1.0,
    "word rel_direction_hard": 1.0,
    "free rel_direction": 1.0,
}
LETTERS = {
    "letter rel_distance": 2.0,
    "letter rel_direction_easy": 1.0,
    "letter rel_direction_medium": 1.0,
    "letter rel_direction_hard": 1.0,
    "letter route_planning": 0.4,
    "letter appearance_order": 0.4,
}
SOME_LETTERS = {kind: 0.3 * weight for kind, weight in LETTERS.items()}


@dataclass(frozen=True)
class Stage:
    """A language stage: `steps` steps on questions drawn by `weights`, a share `tags` of them in think and observe
    mode."""

    name: str
    steps: int
    weights: dict[str, float]
    tags: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The whole recipe. `held` rooms are kept for the gates; `views` are headings a vision step, `rooms_per_step` x
    `questions_per_room` questions a language step; `checkpoint` steps between two checkpoints."""

    rooms: int = 4500
    held: int = 150
    vision_steps: int = 2800
    views: int = 128
    vision_muon: float = 0.03
    vision_adam: float = 0.002
    language: tuple[Stage, ...] = (
        Stage("find", 150, FIND),
        Stage("ask", 450, ASK | SOME_LETTERS, tags=0.08),
        Stage("letters", 300, ASK | LETTERS, tags=0.25),
    )
    language_muon: float = 0.01
    language_adam: float = 0.0015
    decay: float = 0.5
    rooms_per_step: int = 8
    questions_per_room: int = 6
    checkpoint: int = 200
    log: int = 50


FULL = Plan()
SMOKE = Plan(
    rooms=20,
    held=4,
    vision_steps=4,
    views=16,
    language=(Stage("find", 2, FIND), Stage("ask", 2, ASK), Stage("letters", 2, ASK | LETTERS, tags=0.3)),
    checkpoint=2,
    log=1,
)
