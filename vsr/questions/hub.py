"""Data sets from the Hugging Face hub, only the files that are needed."""

import re
from collections.abc import Sequence
from pathlib import Path

from vsr.errors import VsrError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(name: str | Path, wanted: Sequence[str], example: str) -> Path:
    """The folder of a data set's files that match `wanted`, downloaded unless they are in the hub's cache. What is no
    hub id, and what cannot be had, are errors that say what to give instead."""
    if not HUB_ID.fullmatch(str(name)):
        raise VsrError(f"{name}: no such folder; give a folder, or a hub id like {example}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), repo_type="dataset", allow_patterns=list(wanted)))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VsrError(f"{name}: cannot be downloaded ({reason}); give a folder that holds it instead") from None
