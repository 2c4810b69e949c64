"""The models on this machine: pull, find, verify, import, remove.

Layout below `edgeai.paths.cache_dir`: ``models/<id>/`` are installed packages, ``staging/<id>/`` is work in
progress, ``locks/`` are the locks between processes, ``hashes/`` remembers what was hashed already. A folder
appears in ``models`` whole or not at all.
"""

from edgeai.models.bundle import write_bundle
from edgeai.models.importing import import_
from edgeai.models.pulling import Progress, pull
from edgeai.models.shelf import MAX_PARAMETERS, InstalledModel, find, installed, verify
from edgeai.models.unbundling import Imported, import_bundle
from edgeai.models.workbench import remove

__all__ = [
    "MAX_PARAMETERS",
    "Imported",
    "InstalledModel",
    "Progress",
    "find",
    "import_",
    "import_bundle",
    "installed",
    "pull",
    "remove",
    "verify",
    "write_bundle",
]
