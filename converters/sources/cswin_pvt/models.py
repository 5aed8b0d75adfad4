"""CSWin and PVT v1, which timm does not have, by name to a module with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitedge.bundle.model_card import ModelCard
from vitedge.converters.sources.cswin_pvt.build import VARIANTS, build
from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier
from vitedge.converters.sources.cswin_pvt.published import load_published
from vitedge.converters.sources.labels import IMAGENET_CLASSES, choose_labels, read_labels
from vitedge.converters.sources.parse import VariantName
from vitedge.converters.sources.preprocessing import given_preprocessing
from vitedge.converters.sources.random_weights import randomize
from vitedge.converters.sources.timm.models import RANDOM_SEED, TorchModel
from vitedge.converters.sources.weights.checkpoints import Weights, read_weights
from vitedge.converters.sources.weights.fitting import check_classes, check_finite
from vitedge.errors import CheckpointError, UsageError

HEAD = "head.weight"


def load_variant(
    source: VariantName,
    *,
    weights: Path | None,
    labels: Path | None,
    random_weights: bool,
    preprocessing: str | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> TorchModel:
    """Build a CSWin or a PVT with published or fine-tuned weights of a file, or random ones.

    Options are those of ``sources.timm.models.load_named``; the network interpolates its own positions.

    Raises:
        UsageError: neither weights nor random ones are asked for, or the family cannot take that size.
        CheckpointError: the weights do not fit, or labels do not match the logits.
    """
    classes = num_classes or (None if labels is None else len(read_labels(labels)))
    if weights is not None:
        stored = read_weights(weights)
        network, sha256 = _with_weights(source.name, stored, weights, num_classes, input_size), stored.sha256
    elif random_weights:
        network, sha256 = _random(source.name, classes or IMAGENET_CLASSES, input_size), ""
    else:
        raise UsageError(
            f"{source.name} needs its weights: vitedge does not download them",
            expected=f"the checkpoint that the authors publish at {VARIANTS[source.name].published_at}, or your own",
            fix="--weights FILE; --random-weights is enough to measure latency",
        )
    described = network.preprocessing
    card = ModelCard(
        name=source.name,
        source=source.name,
        architecture=source.name,
        labels=choose_labels(network.num_classes, file=labels, configured=None, where=source.name, imagenet=True),
        preprocessing=described if preprocessing is None else given_preprocessing(preprocessing, network.input_size),
        weights_sha256=sha256,
        pretrained=bool(sha256),
    )
    return TorchModel(card, network)


def _with_weights(
    name: str, stored: Weights, file: Path, asked: int | None, input_size: tuple[int, int] | None
) -> ImageClassifier:
    check_finite(stored.tensors, file)
    classes = _classes(name, stored.tensors)
    check_classes(classes, asked, where=str(file))
    network = build(name, classes, input_size)
    try:
        load_published(network, stored.tensors, where=str(file))
    except (RuntimeError, ArithmeticError, LookupError, ValueError) as error:  # positions of an impossible shape
        raise CheckpointError(
            f"{file} does not fit {name}: {error}", expected="weights that its authors' code saved"
        ) from error
    return network


def _classes(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Rows of the classifier in a file; the published number where there is none of the network's width."""
    with torch.device("meta"):  # shapes alone, and no memory
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
