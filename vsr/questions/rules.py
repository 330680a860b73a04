"""The two rule sets: how VSI-Bench and how the paper's VSI-100k ask and answer."""

import re
from dataclasses import dataclass
from string import Formatter

from vsr.errors import unknown
from vsr.questions.question import Draft


@dataclass(frozen=True)
class Template:
    """A question's wording with {fields}: writes a question and reads its fields back."""

    text: str

    def fill(self, **fields: str) -> str:
        """The question."""
        return self.text.format(**fields)

    def read(self, question: str) -> dict[str, str] | None:
        """The fields of a question of this wording, else None."""
        pattern, seen = "", set()
        for literal, name, _, _ in Formatter().parse(self.text):
            pattern += re.escape(literal)
            if name:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
                seen.add(name)
        match = re.fullmatch(pattern, question)
        return match.groupdict() if match else None


@dataclass(frozen=True)
class Rules:
    """What differs between the rule sets.

    `options`: lettered options (VSI-Bench) or free-form answers (the paper). `centres`: distances and directions
    between point-cloud centres (the paper) or, for distances, between closest points (VSI-Bench). `caps`: questions of
    a type in one scene, None for all. `ignored`: labels that are no objects. `order_gap`: seconds between first
    appearances. `rim`: closest points are sampled with their outermost layer whole, not as VSI-Bench's rounding left
    it (see `geometry.box_points`).
    """

    name: str
    templates: dict[str, Template]
    caps: dict[str, int | None]
    options: bool
    centres: bool
    ignored: frozenset[str] = frozenset()
    order_gap: float = 1.0
    rim: bool = False

    def draft(
        self, kind: str, answer: str, choices: tuple[str, ...] = (), balance: str | None = None, **fields: str
    ) -> Draft:
        """A draft of question type `kind`, in this rule set's words."""
        return Draft(kind, self.templates[kind].fill(**fields), answer, choices, balance)


def _worded(asks: dict[str, tuple[str, int | None]]) -> dict[str, dict]:
    """Question type -> (wording, most in a scene), as the two fields of `Rules`."""
    return {
        "templates": {kind: Template(text) for kind, (text, _) in asks.items()},
        "caps": {kind: cap for kind, (_, cap) in asks.items()},
    }


SIZE = "What is the length of the longest dimension (length, width, or height) of the {label}, measured in centimeters?"
ORDER = "What will be the first-time appearance order of the following categories in the video: {labels}?"
HARD = (
    "If I am standing by the {stand} and facing the {face}, is the {query} to my front-left, front-right, back-left, "
    "or back-right?\nThe directions refer to the quadrants of a Cartesian plane (if I am standing at the origin and "
    "facing along the positive y-axis)."
)
MEDIUM = (
    "If I am standing by the {stand} and facing the {face}, is the {query} to my left, right, or back?\nAn object is "
    "to my back if I would have to turn at least 135 degrees in order to face it."
)
EASY = "If I am standing by the {stand} and facing the {face}, is the {query} to the left or the right of the {face}?"
ROUTE = (
    "You are a robot beginning at the {start} and facing the {face}. You want to navigate to the {goal}. You will "
    "perform the following actions (Note: for each [please fill in], choose either 'turn back,' 'turn left,' or "
    "'turn right.'): {actions}. You have reached the final destination."
)

# Wordings: VSI-Bench's released questions. Caps: the most questions of a type that one of its ScanNet scenes has;
# object_rel_distance, whose released subset was picked by hand, has the generation scripts' default.
VSIBENCH = Rules(
    name="vsibench",
    options=True,
    centres=False,
    **_worded(
        {
            "object_counting": ("How many {label}(s) are in this room?", None),
            "object_size_estimation": (SIZE, None),
            "room_size_estimation": (
                "What is the size of this room (in square meters)? \nIf multiple rooms are shown, estimate the size of "
                "the combined space.",
                1,
            ),
            "object_abs_distance": (
                "Measuring from the closest point of each object, what is the distance between the {one} and the "
                "{other} (in meters)?",
                7,
            ),
            "object_rel_distance": (
                "Measuring from the closest point of each object, which of these objects ({options}) is the closest to "
                "the {target}?",
                6,
            ),
            "object_rel_direction_easy": (EASY, 3),
            "object_rel_direction_medium": (MEDIUM, 6),
            "object_rel_direction_hard": (HARD, 6),
            "route_planning": (ROUTE, 1),
            "obj_appearance_order": (ORDER, 30),
        }
    ),
)

# Wordings: the paper's Figure 2 (section 3.1), with its spacing slips ("can(s)in", "guitar)is", "length,width")
# mended and a comma before "is the". Caps: the paper's samples per task over its 1.5k scenes; it asks every
# once-occurring object for its size (13k), every pair of them for its distance (75k), and each of them once as the
# target of a relative distance (13k). How its 8k directions were picked is unstated: 6 a scene at most.
VSI100K = Rules(
    name="vsi100k",
    options=False,
    centres=True,
    ignored=frozenset({"wall", "floor", "ceiling", "object"}),
    **_worded(
        {
            "object_counting": ("How many {label}(s) in the room?", None),
            "object_size_estimation": (SIZE, None),
            "room_size_estimation": ("What is the size of this room (in square meters)?", 1),
            "object_abs_distance": ("What is the distance between the {one} and the {other} (in meters)?", None),
            "object_rel_distance": ("Which of these objects ({options}) is the closest to the {target}?", None),
            "object_rel_direction": (EASY, 6),
        }
    ),
)

RULES = {rules.name: rules for rules in (VSIBENCH, VSI100K)}


def get(name: str) -> Rules:
    """A rule set by name."""
    if name not in RULES:
        raise unknown("rules", name, RULES)
    return RULES[name]
