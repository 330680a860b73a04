"""All that exists only because there is no GPU and no licence: rooms and a base model pre-trained on them."""

import tomllib
from pathlib import Path

RECIPE = tomllib.loads(Path(__file__).with_name("recipe.toml").read_text(encoding="utf-8"))
