"""A checked request to convert: ``vitedge.convert`` writes it, and every stage of the conversion reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.model_card import Activation
from vitedge.bundle.targets import Precision, Target
from vitedge.converters.sources.parse import Source


@dataclass(frozen=True)
class Contract:
    """The limits that the precision ``auto`` must keep.

    Attributes:
        max_drop: largest loss against fp32: points of top-1, or percent of images with another best class where the
            images have no classes.
        max_p99_ms: largest p99 of a classification, in milliseconds; None for any.
    """

    max_drop: float
    max_p99_ms: float | None


@dataclass(frozen=True)
class ModelOptions:
    """How to load the source; each loader reads the options that its kind of source takes.

    Attributes:
        weights: weight file for a name or a factory; None for timm's download, or the factory's own weights.
        random_weights: give a name random weights.
        labels: text file with one label a line; None for the checkpoint's own.
        preprocessing: a JSON file, or ``timm:NAME``; None for the checkpoint's own.
        num_classes: number of logits of a named model; None for the number that its weights have.
        input_size: (height, width) in pixels; None for the size of the training.
    """

    weights: Path | None
    random_weights: bool
    labels: Path | None
    preprocessing: str | None
    num_classes: int | None
    input_size: tuple[int, int] | None


@dataclass(frozen=True)
class Request:
    """A conversion that was checked.

    Attributes:
        source: where the model comes from.
        target: the hardware.
        precision: the precision of the bundle; with a contract, the cheapest that is tried.
        contract: chooses the precision; None where the user named one.
        model: how to load the source.
        activation: makes scores of the logits; None for the checkpoint's own.
        calib: folder, list or video of images like the frames that the camera will see.
        eval_data: folder of labelled images to measure accuracy on.
        abstain_error: share of wrong predictions, 0…1, to fit the threshold for abstaining to; None to fit none.
        output: path of the new bundle.
        overwrite: replace a bundle of that name.
    """

    source: Source
    target: Target
    precision: Precision
    contract: Contract | None
    model: ModelOptions
    activation: Activation | None
    calib: Path | None
    eval_data: Path | None
    abstain_error: float | None
    output: Path
    overwrite: bool = False
