"""The Hugging Face hub and its cache: a model's commits, the files of a commit, and their content in whole or in part.

The content at a commit never changes. The cache comes first, as when a model is loaded; the hub is asked only for what
the cache lacks.
"""

from mi_sweeps.models.hub.answers import NoRevision, Unreachable
from mi_sweeps.models.hub.cache import HubFile, weights_of
from mi_sweeps.models.hub.downloads import download, forget, prefetch
from mi_sweeps.models.hub.questions import commit, content, files, files_of, read, refs

__all__ = [
    "HubFile",
    "NoRevision",
    "Unreachable",
    "commit",
    "content",
    "download",
    "files",
    "files_of",
    "forget",
    "prefetch",
    "read",
    "refs",
    "weights_of",
]
