"""How a model's bundles compare with its peers: accuracy against PyTorch, kernels, and times in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NNCF, NNCF_UNSMOOTHED, OPENVINO = "NNCF default", "NNCF, SmoothQuant off", "OpenVINO 16-bit"
REFERENCE = "ONNX Runtime fp32"
OPPONENTS: Mapping[str, str] = {NNCF: "int8", NNCF_UNSMOOTHED: "int8", OPENVINO: "fp16"}
"""Each peer, and the precision of ours that it is compared with."""
SMOOTHING: Mapping[str, float | None] = {NNCF: None, NNCF_UNSMOOTHED: -1.0}
COLLAPSED_DB, BEHIND_DB = 15.0, 3.0
"""An int8 that is below the first, and behind ours by more than the second, has lost its answers."""


@dataclass(frozen=True)
class Kernels:
    """What an engine made of a graph.

    Attributes:
        quantized: number of layers that the graph makes int8.
        executed: number of layers among them that the engine computes in int8.
        fallbacks: reasons for the layers that it computes in floating point, by the name of the layer.
        microseconds: mean times of all operators in warm runs, added up; None without a profile.
        overheads: microseconds of operators that take time only because of how the engine runs the graph, by kind.
    """

    quantized: int
    executed: int
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    microseconds: float | None = None
    overheads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One way to run a model.

    Attributes:
        failed: first line of the error; empty if it runs.
        sqnr_db: of the logits, against PyTorch.
        agreement: percent of photos with the same top-1 as PyTorch.
        rounds: median milliseconds of each round.
        kernels: from the audit of its engine; None if there is none.
    """

    failed: str = ""
    sqnr_db: float = 0.0
    agreement: float = 0.0
    rounds: tuple[float, ...] = ()
    kernels: Kernels | None = None


@dataclass(frozen=True)
class PeerComparison:
    """Every way to run a model, timed in the same rounds.

    Attributes:
        contenders: by name: the precisions of the bundles, the peers, and ONNX Runtime in fp32, which is only timed.
        photos: number of photos, which nothing was calibrated on, that the logits were compared on.
        discarded: number of rounds that were thrown away, because the machine was busy.
        refused: why there are no times; empty if there are.
    """

    contenders: Mapping[str, Contender]
    photos: int
    discarded: int = 0
    refused: str = ""

    def rounds(self, name: str) -> tuple[float, ...]:
        """Return the times of a contender; none if it failed, or if all times were refused."""
        return self.contenders.get(name, Contender()).rounds

    def ratios(self, peer: str) -> list[float] | None:
        """Return the time of ours over the peer's, of each round; None if one of them has no times."""
        return self.between(OPPONENTS[peer], peer)

    def between(self, name: str, other: str) -> list[float] | None:
        """Return the time of one contender over another's, of each round; None if one of them has no times."""
        times, others = self.rounds(name), self.rounds(other)
        return [mine / theirs for mine, theirs in zip(times, others, strict=True)] if times and others else None

    def collapsed(self, peer: str) -> bool:
        """Return whether a peer in int8 has lost the answers that ours keeps."""
        if OPPONENTS[peer] != "int8":
            return False
        ours = self.contenders.get("int8")
        behind = COLLAPSED_DB if ours is None else ours.sqnr_db - BEHIND_DB
        return self.contenders[peer].sqnr_db < min(COLLAPSED_DB, behind)

    def fastest_int8(self) -> str | None:
        """Return the fastest peer in int8 that did not collapse, by its ratio of times; None without one."""
        found = {
            peer: statistics.median(ratios)
            for peer in SMOOTHING
            if (ratios := self.ratios(peer)) is not None and not self.collapsed(peer)
        }
        return max(found, key=lambda peer: found[peer], default=None)

    def faster_peers(self) -> tuple[str, ...]:
        """Return the peers that did not collapse and are faster than ours, from the median of the rounds' ratios."""
        ratios = {peer: self.ratios(peer) for peer in OPPONENTS}
        return tuple(
            peer
            for peer, each in ratios.items()
            if each is not None and statistics.median(each) > 1 and not self.collapsed(peer)
        )


def comparison_from(value: Mapping[str, Any]) -> PeerComparison:
    """Read a comparison as JSON holds it."""
    contenders = {
        name: Contender(
            **{
                **each,
                "rounds": tuple(each["rounds"]),
                "kernels": None if each["kernels"] is None else Kernels(**each["kernels"]),
            }
        )
        for name, each in value["contenders"].items()
    }
    return PeerComparison(**{**value, "contenders": contenders})
