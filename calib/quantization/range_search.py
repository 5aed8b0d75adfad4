"""Range search: the range of an activation, chosen by what it does to the outputs of the network.

An error is not worth the same everywhere: a clipped token that nothing attends to costs nothing, a clipped class token
everything, and no statistic of the tensor alone knows which is which. So each candidate is tried on a few images, with
all layers before it quantized and those behind it in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer
from vitedge.calib.quantization.graph_parts import Values
from vitedge.calib.quantization.layerwise import LayerwiseRun, energy
from vitedge.calib.quantization.parallel import parallel_map, thread_count
from vitedge.calib.quantization.range_estimators import Histogram, Range, entropy, min_max, mse, percentile
from vitedge.calib.quantization.search_budget import SearchBudget

Floats = NDArray[np.float32]

CLOSE = 4
"""How many of the candidates are tried on more images than the others."""

SHARES = (0.9999, 0.99999)

WIDER = (1.15, 1.3)
"""Ranges with room for larger values in other images, in parts of the range seen."""

NARROWER = 0.93 ** np.arange(1, 15)
"""Fractions of the largest magnitude that are tried, 0.93 to 0.36. The error is no smooth function of them: it matters
which values near 0, where most of them lie, a level falls on."""

NEGLIGIBLE = 0.5
"""How much of the noise of all decisions before it the tensors of a network together may add unsearched."""

FLOAT8_RANGES = 2.0 ** (-np.arange(1, 8) / 8)
"""Parts of the range with its headroom; behind one octave the levels repeat."""


@dataclass(frozen=True)
class Unseen:
    """Images that candidates are judged on, with ranges that were taken from other images.

    The range of all images clips nothing in any of them, and would judge a range too narrow.

    Attributes:
        images: number of them, the first of the run.
        others: the range of the other images.
        factors: of the channels, to broadcast: factors from the other images over factors from all images.
    """

    images: int
    others: Range
    factors: Floats

    def judged(self, found: Range, whole: Range, scheme: Scheme) -> Callable[[Floats], Floats]:
        """Give the quantizer that stands for a range: as large a part of the other images' range."""
        low = self.others.low * _part(found.low, whole.low)
        high = self.others.high * _part(found.high, whole.high)
        return partial(self._scaled, activation_quantizer(low, high, scheme))

    def furthest(self, images: Sequence[Floats]) -> list[float]:
        """Measure the largest magnitude in each image."""
        return [float(np.abs(values * self.factors).max()) for values in images[: self.images]]

    def _scaled(self, quantizer: Quantizer, values: Floats) -> Floats:
        return np.asarray(quantizer(values * self.factors) / self.factors)


def _part(end: float, whole: float) -> float:
    return end / whole if whole else 0.0


def candidates(histogram: Histogram, scheme: Scheme) -> tuple[Range, ...]:
    """Give all ranges that are tried, each once; the range of all values comes first.

    For float8 they differ in the levels that the values fall on, and in the room for larger values, from 4 to 2.2
    times the largest: nothing is clipped, because a float8 level is as fine for a small value as for a large one.
    """
    whole = min_max(histogram)
    if scheme is Scheme.FLOAT8:
        return (whole, *(whole.clipped(float(each)) for each in FLOAT8_RANGES if whole.high > whole.low))
    suggested = [percentile(histogram, share) for share in SHARES]
    suggested += [mse(histogram), entropy(histogram), *(whole.clipped(float(clip)) for clip in NARROWER)]
    return tuple(dict.fromkeys([whole, *(each for each in suggested if each.high > each.low)]))


def best_quantizer(
    run: LayerwiseRun,
    data: str,
    read: str,
    histogram: Histogram,
    budget: SearchBudget,
    scheme: Scheme,
    unseen: Unseen | None = None,
    negligible: float = 0.0,
) -> Quantizer:
    """Choose the quantizer with the smallest squared error of the network's outputs.

    Args:
        run: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        histogram: of the tensor, over all images.
        budget: on how many of the run's images.
        scheme: the kind of quantizer.
        unseen: images to judge on, half of them with the largest values; None for the run's first, with the ranges
            that they are in themselves.
        negligible: as in ``best_by_outputs``, for the range of all values.
    """
    whole = min_max(histogram)
    tried = [*candidates(histogram, scheme), *(whole.widened(each) for each in WIDER if unseen is not None)]
    ranges = {activation_quantizer(each.low, each.high, scheme): each for each in tried}
    quantizers = tuple(ranges)
    if len(quantizers) == 1:
        return quantizers[0]
    if unseen is None:
        images = range(min(budget.images, len(run.values)))
        return quantizers[best_by_outputs(run, data, read, quantizers, images[: budget.first], images, negligible)]
    judged = [unseen.judged(each, whole, scheme) for each in ranges.values()]
    reach = unseen.furthest([values[data] for values in run.values])
    few, many = (half_furthest(reach, count) for count in (budget.first, budget.images))
    return quantizers[best_by_outputs(run, data, read, judged, few, many, negligible)]


def half_furthest(beyond: Sequence[float], count: int) -> tuple[int, ...]:
    """Choose some images: one half lies the furthest beyond, the other half are the first of the rest; their positions.

    Args:
        beyond: how far each is.
        count: how many; all if there are fewer.
    """
    furthest = sorted(range(len(beyond)), key=lambda image: -beyond[image])[: count // 2]
    rest = [image for image in range(len(beyond)) if image not in furthest]
    return (*furthest, *rest[: count - len(furthest)])


def best_by_outputs(
    run: LayerwiseRun,
    data: str,
    read: str,
    choices: Sequence[Callable[[Floats], Floats]],
    few: Sequence[int],
    many: Sequence[int],
    negligible: float = 0.0,
) -> int:
    """Find the choice that leaves the network's outputs with the smallest squared error; returns its position.

    The search ends early where the first choice, or the closest after ``few`` images, adds next to nothing to the noise
    that the decisions before it left in the outputs. With one image in ``few``, as for large networks, half of the
    choices end behind the first part of the rest.

    Args:
        run: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        choices: changes of the tensor.
        few: positions of the images that all are tried on.
        many: positions of the images that the closest choices are tried on.
        negligible: how much that is, as a share of that noise.
    """
    errors = _Errors(run, data, read, choices)
    if errors.is_negligible(0, few, negligible):
        return 0
    tried = errors.closer_half(few[0]) if len(few) == 1 else range(len(choices))
    close = errors.closest(tried, few, CLOSE)
    if errors.is_negligible(close[0], few, negligible):
        return close[0]
    return errors.closest(close, many, 1)[0]


class _Errors:
    """Squared errors of the network's outputs, of each choice on each image; each is computed once, when needed."""

    def __init__(self, run: LayerwiseRun, data: str, read: str, choices: Sequence[Callable[[Floats], Floats]]) -> None:
        self._run, self._rest, self._choices = run, run.rest(data, read), choices
        self._reference: dict[int, Floats] = {}
        self._errors: dict[tuple[int, int], float] = {}
        self._begun: dict[tuple[int, int], Values] = {}

    def closer_half(self, image: int) -> list[int]:
        """Run all choices through the first part of the rest, and return the positions of the half closer behind it.

        The first choice stays among them: its errors may be known already.
        """
        positions = range(len(self._choices))
        if len(self._rest.parts) < 2:
            return list(positions)
        reference = self._rest.begin(_unchanged, image)
        begun = list(parallel_map(lambda position: self._rest.begin(self._choices[position], image), positions))
        distances = [_distance(values, reference) for values in begun]
        closest = sorted(positions, key=lambda position: distances[position])[: -(-len(positions) // 2)]
        half = sorted({0, *closest})
        self._begun = {(each, image): begun[each] for each in half if (each, image) not in self._errors}
        return half

    def closest(self, positions: Sequence[int], images: Sequence[int], count: int) -> list[int]:
        """Sort choices by their error on some images, and return the positions of the closest.

        The search is best-first: always the choices with the smallest error so far are tried on one image more, until
        ``count`` of them were tried on all. Each other choice exceeds their errors on fewer images already.
        """
        self._refer(images)
        self._compute((position, images[0]) for position in positions)
        while True:
            leaders = sorted(positions, key=lambda position: self._error(position, images))[:count]
            missing = [[(each, image) for image in images if (each, image) not in self._errors] for each in leaders]
            in_turn = [pair for turn in zip_longest(*missing) for pair in turn if pair is not None]
            if not in_turn:
                return leaders
            self._compute(in_turn[: thread_count()])

    def is_negligible(self, position: int, images: Sequence[int], share: float) -> bool:
        """Decide whether a choice adds no more than a share of the noise that is in the outputs of some images."""
        if not share:
            return False
        self._refer(images)
        self._compute((position, image) for image in images)
        there = sum(energy(self._reference[image] - self._run.float_outputs[image]) for image in images)
        return self._error(position, images) <= share * there

    def _error(self, position: int, images: Sequence[int]) -> float:
        """Sum up what is known of a choice's error on images."""
        return sum(self._errors.get((position, image), 0.0) for image in images)

    def _refer(self, images: Iterable[int]) -> None:
        """Compute the outputs for the unchanged tensor of images."""
        new = [image for image in images if image not in self._reference]
        self._reference.update(zip(new, parallel_map(self._unchanged, new), strict=True))

    def _compute(self, needed: Iterable[tuple[int, int]]) -> None:
        """Compute the errors of pairs of a choice and an image that are not known yet."""
        pairs = [pair for pair in needed if pair not in self._errors]
        self._errors.update(zip(pairs, parallel_map(self._squared, pairs), strict=True))

    def _unchanged(self, image: int) -> Floats:
        return self._rest.finish(self._rest.begin(_unchanged, image))

    def _squared(self, pair: tuple[int, int]) -> float:
        position, image = pair
        begun = self._begun.pop(pair, None) or self._rest.begin(self._choices[position], image)
        found = energy(self._rest.finish(begun) - self._reference[image])
        return found if np.isfinite(found) else np.inf


def _unchanged(values: Floats) -> Floats:
    return values


def _distance(values: Values, reference: Values) -> float:
    """Sum up the squared errors of values, each relative to the energy of the unchanged value.

    Values that are infinite without any change, such as scores behind a mask, do not count.
    """
    distance = 0.0
    for name, unchanged in reference.items():
        if values[name] is unchanged or not np.issubdtype(unchanged.dtype, np.floating):
            continue
        finite = np.isfinite(unchanged)
        whole = energy(unchanged[finite])
        if whole > 0:
            distance += energy(values[name][finite] - unchanged[finite]) / whole
    return distance if np.isfinite(distance) else np.inf
