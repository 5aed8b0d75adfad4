"""How much quality each int8 layer costs: the measured numbers, which reports show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Noisy(Protocol):
    """A layer whose noise was measured."""

    @property
    def multiplications(self) -> int:
        """Return the number of products for one image."""

    @property
    def noise(self) -> float:
        """Return the energy of the noise that the layer alone adds to the logits, relative to the logits' energy."""


def relative_noise(sqnr_db: float) -> float:
    """Return the energy of noise over the energy of the signal."""
    return float(10.0 ** (-sqnr_db / 10.0))


NoisyLayer = TypeVar("NoisyLayer", bound=Noisy)


def by_noise_per_product(layers: Iterable[NoisyLayer]) -> tuple[NoisyLayer, ...]:
    """Sort layers so that the first ones in 16 bits remove most noise for the least time."""
    return tuple(sorted(layers, key=lambda layer: layer.noise / max(layer.multiplications, 1), reverse=True))


@dataclass(frozen=True)
class LayerNoise:
    """The noise of one layer in int8; the attributes are as in ``Noisy``.

    Attributes:
        name: of the layer.
    """

    name: str
    multiplications: int
    noise: float


@dataclass(frozen=True)
class Effect:
    """The difference of logits from the FP32 graph's logits.

    Attributes:
        sqnr_db: of the logits.
        flips: images with another best class; of a multi-label model, images with other labels from a score of 0.5 on.
        kl: mean Kullback-Leibler divergence from the FP32 graph, of the softmax, or of the sigmoids summed over the
            labels, in nats.
    """

    sqnr_db: float
    flips: int
    kl: float


@dataclass(frozen=True)
class LayerSensitivity:
    """The cost of one layer in int8.

    Attributes:
        name: of the layer.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        multiplications: for one image.
        output_sqnr_db: of the layer's result, when this layer alone is int8.
        only: of the logits, when this layer alone is int8.
        all_but: of the logits, when all other layers are int8.
    """

    name: str
    operator: str
    multiplications: int
    output_sqnr_db: float
    only: Effect
    all_but: Effect

    @property
    def noise(self) -> float:
        """Return the energy of the noise that the layer alone adds to the logits, relative to the logits' energy."""
        return relative_noise(self.only.sqnr_db)


@dataclass(frozen=True)
class Sensitivity:
    """The cost of all layers.

    Attributes:
        images: how many it was measured on.
        whole: of the logits, when all layers are int8.
        layers: in the order of the graph.
    """

    images: int
    whole: Effect
    layers: tuple[LayerSensitivity, ...]

    def worst_first(self) -> tuple[LayerSensitivity, ...]:
        """Sort the layers by what each costs the logits alone."""
        return tuple(sorted(self.layers, key=lambda each: each.only.sqnr_db))
