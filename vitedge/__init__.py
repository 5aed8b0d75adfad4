"""vitedge takes Vision Transformers from a checkpoint to a measured, self-checking engine on an edge device.

    bundle = vitedge.convert("timm:deit_tiny_patch16_224", target="cpu", precision="int8", calib="images/")
    with vitedge.load(bundle) as classifier:
        classifier.classify(frame)

Importing this package imports numpy and no inference library; each verb imports what it needs when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitedge.bundle import Bundle
from vitedge.errors import VitedgeError
from vitedge.prediction import Candidate, Prediction, StageTimes
from vitedge.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from vitedge.runtime.classifier import Classifier

__all__ = [
    "Bundle",
    "Candidate",
    "Prediction",
    "StageTimes",
    "VitedgeError",
    "__version__",
    "load",
]


def load(bundle: Bundle | str | Path, *, engine: str | None = None, threads: int | None = None) -> Classifier:
    """Open a bundle for classification.

    Args:
        bundle: a bundle, or the path of one.
        engine: ``openvino`` or ``onnxruntime``; by default the one of the bundle's target.
        threads: CPU threads to use; by default the engine decides.

    Returns:
        A classifier; use it in a ``with`` statement, or call its ``close``.

    Raises:
        BundleError: the bundle cannot be read, or a file of it was altered.
        MissingExtraError: the engine's library is not installed.
        EngineError: the engine does not load, or does not reproduce the bundle's golden vectors.
    """
    from vitedge.runtime.classifier import load as load_classifier

    return load_classifier(bundle, engine=engine, threads=threads)
