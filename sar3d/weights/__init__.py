"""Weights that others have trained: one registry of where they come from, and one order in which they are looked for.

An explicit path comes first, then the folder `$SAR3D_WEIGHTS`, then the caches of the hub and of PyTorch or an installed
package, then a download, unless `HF_HUB_OFFLINE` forbids it. A file that the registry knows by its digest is checked
against it; tensors are read from safetensors or with `weights_only=True`, so that no file runs code.
"""

from sar3d.weights.find import (
    FOLDER,
    Listed,
    MissingWeightsError,
    digest,
    fetch,
    find,
    inventory,
    is_published,
    locate,
    locate_source,
    model_files,
)
from sar3d.weights.registry import REGISTRY, Weights, entry
from sar3d.weights.sources import HubFile, HubModel, Package, Source, UrlFile
from sar3d.weights.tensors import read_tensors

__all__ = [
    "FOLDER",
    "REGISTRY",
    "HubFile",
    "HubModel",
    "Listed",
    "MissingWeightsError",
    "Package",
    "Source",
    "UrlFile",
    "Weights",
    "digest",
    "entry",
    "fetch",
    "find",
    "inventory",
    "is_published",
    "locate",
    "locate_source",
    "model_files",
    "read_tensors",
]
