"""Run as ``python -m edgeai.models.hub REPO FILE REVISION FOLDER``: fetch one file from the hub.

The only importer of huggingface_hub. It is run by `edgeai.models.sources` in a process of its own.
"""

import sys
from collections.abc import Sequence

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError


def main(arguments: Sequence[str]) -> str | None:
    """The reason why it failed, in one line, or None."""
    repo, file, revision, folder = arguments
    try:
        hf_hub_download(repo, file, revision=revision, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        return f"ERROR: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
