"""Load variants of CSWin and PVT v1 by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitedge.bundle.model_card import ModelCard
from vitedge.converters.sources.cswin_pvt.build import build
from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier
from vitedge.converters.sources.cswin_pvt.published import load_published
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.converters.sources.labels import IMAGENET_CLASSES, choose_labels, read_labels
from vitedge.converters.sources.parse import CswinPvtName
from vitedge.converters.sources.preprocessing import read_preprocessing
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.sources.torch_model import RANDOM_SEED, TorchModel
from vitedge.converters.sources.weights.checkpoints import Checkpoint, read_checkpoint
from vitedge.converters.sources.weights.state_dict import check_classes, check_finite
from vitedge.errors import CheckpointError, UsageError

HEAD = "head.weight"


def load_variant(
    source: CswinPvtName,
    *,
    weights: Path | None,
    labels: Path | None,
    random_weights: bool,
    preprocessing: str | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> TorchModel:
    """Build a CSWin or a PVT with published or fine-tuned weights from a file, or with random weights.

    Arguments are as for ``sources.timm.models.load_timm``; the network interpolates its own position embeddings.

    Raises:
        UsageError: neither ``weights`` nor ``random_weights`` is given, or the family cannot take this size.
        CheckpointError: the weights do not fit, or labels do not match the logits.
    """
    classes = num_classes or (None if labels is None else len(read_labels(labels)))
    if weights is not None:
        stored = read_checkpoint(weights)
        network, sha256 = _with_weights(source.name, stored, weights, num_classes, input_size), stored.sha256
    elif random_weights:
        network, sha256 = _random(source.name, classes or IMAGENET_CLASSES, input_size), ""
    else:
        raise UsageError(
            f"{source.name} needs its weights: vitedge does not download them",
            expected=f"the checkpoint that the authors publish at {VARIANTS[source.name].published_at}, or your own",
            fix="weights=FILE; random_weights=True is enough to measure latency",
        )
    described = network.preprocessing
    card = ModelCard(
        name=source.name,
        source=source.name,
        architecture=source.name,
        labels=choose_labels(network.num_classes, file=labels, configured=None, where=source.name, imagenet=True),
        preprocessing=described if preprocessing is None else read_preprocessing(preprocessing, network.input_size),
        weights_sha256=sha256,
        pretrained=bool(sha256),
    )
    return TorchModel(card, network, gives_logits=True)


def _with_weights(
    name: str, stored: Checkpoint, file: Path, asked: int | None, input_size: tuple[int, int] | None
) -> ImageClassifier:
    check_finite(stored.state_dict, file)
    classes = _classes(name, stored.state_dict)
    check_classes(classes, asked, where=str(file))
    network = build(name, classes, input_size)
    try:
        load_published(network, stored.state_dict, where=str(file))
    except (
        RuntimeError,
        ArithmeticError,
        LookupError,
        ValueError,
    ) as error:  # embeddings of an impossible shape
        raise CheckpointError(
            f"{file} does not fit {name}: {error}", expected="weights that its authors' code saved"
        ) from error
    return network


def _classes(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of classes in a state dict; ImageNet's if it has no fitting classifier."""
    with torch.device("meta"):  # shapes only, without memory
        expected = build(name, IMAGENET_CLASSES).head.weight
    given = tensors.get(HEAD)
    if given is None or given.ndim != expected.ndim or given.shape[1] != expected.shape[1]:
        return IMAGENET_CLASSES
    return int(given.shape[0])


def _random(name: str, classes: int, input_size: tuple[int, int] | None) -> ImageClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = build(name, classes, input_size)
    randomize(network, network.preprocessing)
    return network
