"""vitedge takes Vision Transformers from a checkpoint to a measured, self-checking engine on an edge device.

    bundle = vitedge.convert("timm:deit_tiny_patch16_224", target="cpu", precision="int8", calib="images/")
    with vitedge.load(bundle) as classifier:
        classifier.classify(frame)

Importing this package imports numpy and no inference library; each verb imports what it needs when it is called.
"""

from vitedge.safety import search_path as _search_path  # noqa: F401  # first: see there

# isort: split
from pathlib import Path
from typing import TYPE_CHECKING

from vitedge.bundle.bundle import Bundle
from vitedge.errors import VitedgeError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.progress import Progress, Silent
from vitedge.safety import telemetry
from vitedge.version import VERSION

__version__ = VERSION

telemetry.disable()  # before any library is imported

if TYPE_CHECKING:
    from vitedge.bundle.signatures import Key, PublicKey, Trust
    from vitedge.runtime.classifier import Classifier
    from vitedge.runtime.engines.tensorrt.build_record import BuildRecord

__all__ = [
    "Bundle",
    "ClassScore",
    "Prediction",
    "StageTimes",
    "VitedgeError",
    "__version__",
    "build",
    "convert",
    "load",
    "sign",
]


def convert(
    source: str | Path,
    *,
    target: str,
    precision: str,
    weights: str | Path | None = None,
    random_weights: bool = False,
    calib: str | Path | None = None,
    eval_data: str | Path | None = None,
    abstain_error: float | None = None,
    max_drop: float | None = None,
    max_p99_ms: float | None = None,
    labels: str | Path | None = None,
    preprocessing: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    output: str | Path | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        source: ``timm:NAME`` (a bare name means timm, or a CSWin or PVT that vitedge has), ``hf:OWNER/NAME`` of the
            Hugging Face hub, a folder in timm's or Transformers' layout, an ``.onnx`` file, a ``.pt2`` file of
            ``torch.export.save``, or ``package.module:factory``, a callable that gives an ``nn.Module``.
        target: name of a target, such as ``cpu``; ``vitedge targets`` lists them.
        precision: ``fp32``, ``fp16`` or ``int8``; or ``auto``, the fastest that keeps a contract on this machine.
        weights: ``.safetensors`` or ``.pth`` file for a name, instead of timm's download, or for the module of a
            factory.
        random_weights: give a name random weights, which is enough to measure latency.
        calib: images like those the camera will see: a folder, a text file that names one a line, or a video. int8 and
            auto need it; other precisions take their golden vectors from it.
        eval_data: folder of images, one folder a label, to measure accuracy on; with 100 or more, the temperature of
            the softmax is fitted on them.
        abstain_error: fit on ``eval_data`` the smallest threshold at which at most this share of the answers that reach
            it is wrong, 0…1; ``Prediction.abstained`` tells those that do not.
        max_drop: with ``auto``, the largest loss against fp32: points of top-1 on ``eval_data``, or percent of images
            with another best class where the images have no classes. Without ``eval_data``, a quarter of ``calib`` is
            held back to judge by.
        max_p99_ms: with ``auto``, the largest p99 of a classification in milliseconds.
        labels: text file with one label a line, instead of the checkpoint's.
        preprocessing: how images become inputs, where the source does not say or says it wrongly: a JSON file with
            timm's keys, the manifest of a bundle, or ``timm:NAME`` for that of a timm model.
        num_classes: number of logits of a named model, where it is not that of its pretraining.
        input_size: side, or (height, width), in pixels, where it is not that of the training; position embeddings
            and relative-position tables are interpolated.
        output: the bundle's folder, which must not exist; by default ``NAME-PRECISION.bundle`` here.
        progress: receives the steps; ``vitedge.progress.Terminal()`` prints them.

    Returns:
        The bundle, which was verified before it was published. If anything fails, nothing is left on the disk.

    Raises:
        UsageError: a request that cannot be met as it was put.
        MissingExtraError: an optional package is missing.
        CheckpointError: weights, configuration or labels do not fit together.
        CalibrationError: images that cannot be used.
        FrameSourceError: the file to calibrate on is no video that can be read.
        ConversionError: export, quantization, compilation or verification failed, or nothing keeps the contract.
    """
    from vitedge.converters.convert import convert as convert_checkpoint

    return convert_checkpoint(
        source,
        target=target,
        precision=precision,
        weights=weights,
        random_weights=random_weights,
        calib=calib,
        eval_data=eval_data,
        abstain_error=abstain_error,
        max_drop=max_drop,
        max_p99_ms=max_p99_ms,
        labels=labels,
        preprocessing=preprocessing,
        num_classes=num_classes,
        input_size=input_size,
        output=output,
        progress=progress,
    )


def build(
    bundle: Bundle | str | Path,
    *,
    workspace_mb: int | None = None,
    force: bool = False,
    trust: "Trust | None" = None,
    progress: Progress = Silent(),  # noqa: B008
) -> "BuildRecord":
    """Compile a bundle for TensorRT on this device, unless that was done; ``load`` does it too where it was not.

    The graph and its 16-bit twin are both built and timed; the faster one that passes the golden self-test is kept.

    Args:
        bundle: a bundle for a Jetson, nvidia-gpu or rtx, or the path of one.
        workspace_mb: most scratch memory of a layer, in MiB; by default a quarter of what is available, up to 1024.
        force: build even if there is an engine for this device.
        trust: public keys, of which one has to have signed the bundle; as for ``load``.
        progress: receives the steps; ``vitedge.progress.Terminal()`` prints them.

    Returns:
        What was built, for what, and how fast each candidate is.

    Raises:
        BundleError: the bundle cannot be read, or its engine was altered.
        UsageError: it is for another backend, ``workspace_mb`` is less than 1, or what is trusted is no key.
        MissingExtraError: a package is not installed.
        EngineError: no TensorRT, driver or GPU; too little memory; or no engine could be built that passes its
            self-test. The engine that was there before is still there.
    """
    from vitedge.runtime.engines.tensorrt.build.build import build as build_bundle

    return build_bundle(bundle, workspace_mb=workspace_mb, force=force, trust=trust, progress=progress)


def sign(bundle: Bundle | str | Path, *, key: "Key", passphrase: str | None = None) -> "PublicKey":
    """Sign a bundle for devices that trust a key: ``load`` with ``trust`` takes no other bundle.

    The signature is over the manifest, which has the hash of every file. It is written into ``manifest.sig``, where one
    by the same key is replaced and others stay. ``vitedge.bundle.signing.new_key`` makes a key.

    Args:
        bundle: a bundle, or the path of one.
        key: Ed25519 private key: a PEM file, or its bytes.
        passphrase: of the key, if it is encrypted.

    Returns:
        The public key of the signature.

    Raises:
        BundleError: the bundle cannot be read, or a file of it was altered.
        UsageError: the key is none, the passphrase is wrong, or the bundle cannot be written into.
        MissingExtraError: the cryptography package is not installed.
    """
    from vitedge.bundle.signing import sign as sign_bundle

    return sign_bundle(bundle, key=key, passphrase=passphrase)


def load(
    bundle: Bundle | str | Path,
    *,
    engine: str | None = None,
    threads: int | None = None,
    trust: "Trust | None" = None,
) -> "Classifier":
    """Open a bundle for classification.

    Args:
        bundle: a bundle, or the path of one.
        engine: ``openvino``, ``onnxruntime`` or ``tensorrt``; by default the one of the bundle's target.
        threads: CPU threads to use; by default the engine decides.
        trust: public keys, of which one has to have signed the bundle: a PEM file, a folder of them, the bytes of one,
            or several of these. Without it, the bundle needs no signature.

    Returns:
        A classifier; use it in a ``with`` statement, or call its ``close``.

    Raises:
        BundleError: the bundle cannot be read, a file of it was altered, or no trusted key has signed it.
        UsageError: no such engine, or what is trusted is no key.
        MissingExtraError: the engine's library, or the package that checks signatures, is not installed.
        EngineError: the engine does not load, or does not reproduce the bundle's golden vectors.
    """
    from vitedge.runtime.load import load as load_classifier

    return load_classifier(bundle, engine=engine, threads=threads, trust=trust)
