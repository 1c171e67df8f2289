"""The Hugging Face hub and its cache: which commits a model has, what its files are at one, and all or parts of them.

The content at a commit never changes. The cache comes first, as it does when a model is loaded; the hub is asked for
what the cache does not know.
"""

from mi_sweeps.models.hub.answers import NoRevision, Unreachable
from mi_sweeps.models.hub.cache import HubFile, weights_of
from mi_sweeps.models.hub.downloads import ahead, download, forget
from mi_sweeps.models.hub.questions import commit, content, files, files_of, read, refs

__all__ = [
    "HubFile",
    "NoRevision",
    "Unreachable",
    "ahead",
    "commit",
    "content",
    "download",
    "files",
    "files_of",
    "forget",
    "read",
    "refs",
    "weights_of",
]
