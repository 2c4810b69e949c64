"""The network, and the only part of edgeai that imports httpx; it does so at the first call.

All that leaves these functions is CloudError's leaves; `download` raises DownloadFailed and DiskFull.
"""

from edgeai.net.calls import HttpCall, Retry, ServerEvent, Timeouts
from edgeai.net.transfer import download

__all__ = ["HttpCall", "Retry", "ServerEvent", "Timeouts", "download"]
