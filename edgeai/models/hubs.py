"""Brings a whole model from the Hugging Face hub: what a converter reads of it, and nothing else."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from edgeai.errors import DownloadFailed, MissingExtra, ModelUnsupported
from edgeai.models import disk
from edgeai.paths import cache_dir

__all__ = ["WANTED", "fetch_repository"]

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "modules.json",  # these three say what an encoder's states become
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "README.md",
    "LICEN[SC]E*",
    "NOTICE*",
    "USE_POLICY*",
)


def fetch_repository(name: str) -> tuple[Path, str]:
    """The folder of ``org/name@revision`` and its commit; what was fetched before is not fetched again.

    Raises MissingExtra, DownloadFailed, ModelUnsupported (it has no safetensors) or DiskFull.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra("huggingface_hub is not installed", extra="hub")
    repo, _, revision = name.partition("@")
    folder = cache_dir() / "sources" / repo.replace("/", "--") / (revision or "main")
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "edgeai.models.hub", repo, "*", revision or "main", str(folder)]
    env = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        raise DownloadFailed(
            f"The download of {repo} from the hub failed",
            why="; ".join(lines[-1:])[:500] or None,
            remedy="Look at the name and the network; for a gated model set HF_TOKEN",
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelUnsupported(
            f"{repo} has no safetensors", why="Other formats may run code when they are loaded"
        )
    return folder, str(json.loads(done.stdout.splitlines()[-1])["revision"])
