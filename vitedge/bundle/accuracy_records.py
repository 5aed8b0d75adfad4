"""What labelled images told at conversion: accuracy, and the scores that were fitted. Records of the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.errors import UsageError

TEMPERATURES = (1e-3, 1e3)
"""Outside this range, logits divided by the temperature are 0 or infinite in float32."""


@dataclass(frozen=True)
class AccuracyRecord:
    """Accuracy measured on labelled images at conversion.

    Attributes:
        top1: top-1 accuracy, in percent.
        top5: top-5 accuracy, in percent.
        images: number of evaluated images.
        sha256: hash of the names and contents of the images, in order.
        calibration_images: number of evaluated images that calibration also used.
    """

    top1: float
    top5: float
    images: int
    sha256: str
    calibration_images: int = 0


@dataclass(frozen=True)
class ConfidenceRecord:
    """Calibration of scores, fitted on labelled images (``vitedge.calib.evaluation.score_calibration``).

    Attributes:
        temperature: the runtime divides logits by it before the softmax; 1 changes nothing.
        threshold: the runtime abstains from a prediction with a lower score, 0…1; at 0 it never abstains.
        abstain_error: error rate among the accepted predictions that the threshold was fitted to, 0…1; None if no error
            rate was requested.
        accepted: percent of the images whose score reaches the threshold.
        accepted_top1: percent of the accepted images whose best class is correct.
        ece_before: expected calibration error of the scores without the temperature, in percent.
        ece_after: expected calibration error with the temperature, in percent.
        images: number of images that it was fitted on.
        sha256: hash of the names and contents of the images, in order.
    """

    temperature: float
    threshold: float
    abstain_error: float | None
    accepted: float
    accepted_top1: float
    ece_before: float
    ece_after: float
    images: int
    sha256: str

    def __post_init__(self) -> None:
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise UsageError(f"the temperature is {self.temperature}", expected=f"{low:g} to {high:g}")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"the threshold is {self.threshold}", expected="a score, 0…1")


@dataclass(frozen=True)
class LabelAccuracyRecord:
    """Accuracy of a multi-label model, measured on labelled images at conversion.

    Attributes:
        mean_average_precision: mean of the average precision of all labels that an image has, in percent.
        micro_f1: F1 of all decisions together, in percent.
        macro_f1: mean F1 of the labels that an image has, in percent.
        exact_match: percent of the images whose labels are all right.
        images: number of evaluated images.
        sha256: hash of the names and contents of the images, in order.
        calibration_images: number of evaluated images that calibration also used.
    """

    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    images: int
    sha256: str
    calibration_images: int = 0


@dataclass(frozen=True)
class ThresholdsRecord:
    """Thresholds of a multi-label model, fitted on labelled images (``vitedge.calib.evaluation.label_thresholds``).

    Attributes:
        thresholds: one for each label; the runtime gives an image every label whose score reaches its threshold, 0…1.
        abstain_error: share of wrong images among the images that get a label, which each threshold was fitted to, 0…1;
            None if each threshold was fitted to the highest F1.
        fitted: number of labels that an image has; the others keep ``LABEL_THRESHOLD``.
        macro_f1_before: mean F1 of these labels with ``LABEL_THRESHOLD``, in percent.
        macro_f1_after: mean F1 of these labels with the thresholds, in percent.
        images: number of images that they were fitted on.
        sha256: hash of the names and contents of the images, in order.
    """

    thresholds: tuple[float, ...]
    abstain_error: float | None
    fitted: int
    macro_f1_before: float
    macro_f1_after: float
    images: int
    sha256: str

    def __post_init__(self) -> None:
        for threshold in self.thresholds:
            if not 0 <= threshold <= 1:
                raise UsageError(f"a threshold is {threshold}", expected="a score, 0…1")
