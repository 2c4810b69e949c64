"""Run as ``python -m edgeai.models.hub REPO FILE REVISION FOLDER``: fetch a file from the hub, or with ``*``
what a converter reads of a model; then the last line on stdout says which commit it was.

The only importer of huggingface_hub. It is run by `edgeai.models.sources` and
`edgeai.models.hubs` in a process of its own.
"""

import json
import sys
from collections.abc import Sequence

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from edgeai.models.hubs import WANTED


def main(arguments: Sequence[str]) -> str | None:
    """The reason why it failed, in one line, or None."""
    repo, file, revision, folder = arguments
    try:
        if file == "*":
            commit = HfApi().model_info(repo, revision=revision).sha
            snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=list(WANTED))
            sys.stdout.write(json.dumps({"revision": commit}) + "\n")
        else:
            hf_hub_download(repo, file, revision=revision, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        return f"ERROR: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
