"""How `questions.json` was made: what the builder asks about rooms, as fingerprints. After a change that is meant:

PYTHONPATH=. python tests/golden/make_questions.py
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from vsr.files import fingerprint
from vsr.miniature.procedural import make_room, seeds
from vsr.questions import build, rules

GOLDEN = Path(__file__).with_name("questions.json")


def fingerprints() -> dict[str, str]:
    """Rule set and question type -> fingerprint of all its questions: texts, options and ground truths."""
    rooms = [make_room(seed) for seed in seeds("probe", 6)]
    seen = {room.id: {box.label: 1.5 * i for i, box in enumerate(room.once())} for room in rooms}
    found: dict[str, list] = {}
    for name in rules.RULES:
        for question in build.build(rooms, replace(rules.get(name), rim=True), seed=1, first_seen=seen):
            found.setdefault(f"{name} {question.question_type}", []).append(asdict(question))
    return {name: fingerprint(questions) for name, questions in found.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"version": build.VERSION, "questions": fingerprints()}, indent=1) + "\n")
