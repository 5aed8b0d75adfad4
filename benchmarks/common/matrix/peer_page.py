"""The peers on the page of the matrix: a table, and geometric means of the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.matrix.comparison import BEHIND_DB, COLLAPSED_DB, OPENVINO, OPPONENTS, SMOOTHING, PeerComparison
from common.timing import LARGEST_CONTRADICTION, MOST_LOAD
from vitedge.bundle.precision_records import PAYS_BELOW

SHOWN_SHARE = 0.02
"""Share of the time of our operators that a kind of overhead must take beyond the peer's to be a reason."""
NAMED_LAYERS = 3
OWN_RATIO = "int8 ÷ fp16"
HEADINGS = (
    "model",
    OWN_RATIO,
    *(f"{ours} ÷ {peer}" for peer, ours in OPPONENTS.items()),
    *("int8", *SMOOTHING, "fp16", OPENVINO),
    "faster peer, and why",
)


def table(compared: Mapping[str, PeerComparison | None], picture: str) -> list[str]:
    """Return the lines of the section; a sentence if nothing was measured.

    Args:
        compared: by model, None where it was not measured.
        picture: address of the picture, from the page; empty if there is none.
    """
    measured = {name: each for name, each in compared.items() if each is not None}
    heading = ["## Beside OpenVINO and NNCF", ""]
    if not measured:
        return [*heading, "Not measured yet.", ""]
    waiting = [f"`{name}`" for name, each in compared.items() if each is None]
    return [
        *heading,
        "The peers start from OpenVINO's own IR of the PyTorch module (`openvino.convert_model`), with OpenVINO's "
        "preprocessing of a uint8 frame; branches that our export merges stay apart. *NNCF default* is "
        "`nncf.quantize(model_type=TRANSFORMER)` on the photos that our int8 is calibrated on; *OpenVINO 16-bit* is "
        "the IR itself in the default precision of the processor.",
        "",
        "- *÷*: our time over the peer's, below 1 where ours is faster: the median over rounds in which all take turns "
        "(smallest-largest).",
        f"- *dB, %*: SQNR of the logits and share of equal top-1, against PyTorch in float32, on {photos(measured)} "
        "photos that nothing was calibrated on. As above, only trained models tell accuracy.",
        f"- *collapsed*: below {COLLAPSED_DB:.0f} dB, and more than {BEHIND_DB:.0f} dB below our int8.",
        "- *faster peer*: one that did not collapse and whose time is below ours, with what the audit of both engines "
        "shows; the times of their operators are means of warm runs.",
        f"- *{OWN_RATIO}*: our own two bundles. {paying_rows(measured)}",
        f"- {faster_rows(measured)}",
        f"- {discarded(measured)}",
        *refusals(measured),
        *([f"- Not measured yet: {', '.join(waiting)}."] if waiting else []),
        "",
        *([f"![Time against SQNR, a dot for each model and way]({picture})", ""] if picture else []),
        f"| {' | '.join(HEADINGS)} |",
        "|" + "---|" * len(HEADINGS),
        *(f"| {' | '.join(cells(name, each))} |" for name, each in measured.items()),
        "",
    ]


def photos(measured: Mapping[str, PeerComparison]) -> str:
    """Return the number of photos, or the smallest and the largest."""
    counts = sorted({each.photos for each in measured.values() if each.contenders}) or [0]
    return "-".join(str(each) for each in dict.fromkeys((counts[0], counts[-1])))


def faster_rows(measured: Mapping[str, PeerComparison]) -> str:
    """Count the models for which a peer is faster."""
    timed = [each for each in measured.values() if not each.refused]
    faster = sum(bool(each.faster_peers()) for each in timed)
    return f"A peer that did not collapse is faster for {faster} of {len(timed)} models."


def paying_rows(measured: Mapping[str, PeerComparison]) -> str:
    """Count the models for which int8 pays."""
    found = own_medians(measured.values())
    pays = sum(each <= PAYS_BELOW for each in found)
    return f"Int8 [pays](quantization.md#when-int8-pays), at {PAYS_BELOW} or less, for {pays} of {len(found)} models."


def own_medians(measured: Iterable[PeerComparison]) -> list[float]:
    """Return the median time of int8 over fp16 of each model that has times."""
    ratios = [each.between("int8", "fp16") for each in measured]
    return [statistics.median(each) for each in ratios if each is not None]


def discarded(measured: Mapping[str, PeerComparison]) -> str:
    """Say how many rounds were thrown away, and which figures are refused."""
    count = sum(each.discarded for each in measured.values())
    return (
        f"{count} round{'s' if count != 1 else ''} with a load above {MOST_LOAD} times the threads "
        f"{'were' if count != 1 else 'was'} thrown away and repeated. Times are refused where the ratio of the medians "
        f"and the median of the rounds' ratios differ by more than {100 * (LARGEST_CONTRADICTION - 1):.0f} %."
    )


def refusals(measured: Mapping[str, PeerComparison]) -> Iterator[str]:
    """Name the models whose times were refused."""
    for name, each in measured.items():
        if each.refused:
            yield f"- Times of `{name}` refused: {each.refused}."


def cells(name: str, compared: PeerComparison) -> list[str]:
    """Return what a line of the table shows."""
    return [
        f"`{name}`",
        ratio(compared.between("int8", "fp16")),
        *(ratio(compared.ratios(peer)) for peer in OPPONENTS),
        *(fidelity(compared, way) for way in ("int8", *SMOOTHING, "fp16", OPENVINO)),
        "; ".join(f"**{peer}**: {reason(compared, peer)}" for peer in compared.faster_peers()).replace("|", "\\|"),
    ]


def ratio(ratios: Sequence[float] | None) -> str:
    """Return the median of the rounds' ratios with their range; empty without times."""
    return "" if ratios is None else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def fidelity(compared: PeerComparison, way: str) -> str:
    """Return SQNR and agreement of a way, or why it has none."""
    found = compared.contenders.get(way)
    if found is None or found.failed:
        return "failed" if found is None else f"failed: {found.failed}".replace("|", "\\|")
    text = f"{found.sqnr_db:.1f} dB, {found.agreement:.0f} %"
    return f"{text}, collapsed" if way in OPPONENTS and compared.collapsed(way) else text


def reason(compared: PeerComparison, peer: str) -> str:
    """Say what the audits of both engines show where a peer is faster."""
    ours, theirs = compared.contenders[OPPONENTS[peer]].kernels, compared.contenders[peer].kernels
    if ours is None or theirs is None:
        return "not audited"
    found = []
    if ours.fallbacks:
        named = ", ".join(list(ours.fallbacks)[:NAMED_LAYERS])
        why = next(iter(ours.fallbacks.values()))
        found.append(f"{len(ours.fallbacks)} of {ours.quantized} int8 layers fall back ({named}: {why})")
    if ours.executed < theirs.executed:
        found.append(f"{ours.executed} layers in int8, the peer {theirs.executed}")
    for kind, microseconds in ours.overheads.items():
        others = theirs.overheads.get(kind, 0.0)
        if ours.microseconds and microseconds - others > SHOWN_SHARE * ours.microseconds:
            found.append(f"{kind} {microseconds:.0f} µs, the peer {others:.0f} µs")
    total = "no profile" if ours.microseconds is None else f"all operators {ours.microseconds:.0f} µs"
    beside = "" if theirs.microseconds is None else f", the peer {theirs.microseconds:.0f} µs"
    return "; ".join([*(found or ["the audit shows no cause"]), f"{total}{beside}"])


def geometric_means(compared: Mapping[str, PeerComparison | None]) -> list[str]:
    """Return the lines of the last section; none if nothing was timed."""
    measured = [each for each in compared.values() if each is not None]
    rows = {f"{ours} ÷ {peer}": medians(measured, [peer] * len(measured)) for peer, ours in OPPONENTS.items()}
    fastest = medians(measured, [each.fastest_int8() for each in measured])
    rows = {"int8 ÷ the fastest NNCF that did not collapse": fastest, **rows, OWN_RATIO: own_medians(measured)}
    if not any(rows.values()):
        return []
    return [
        "## Geometric means of the ratios",
        "",
        "The ratio of a model is the median of its rounds. The rows of a single peer include models that it collapses "
        "on.",
        "",
        "| ratio | models | geometric mean | smallest-largest |",
        "|---|---|---|---|",
        *(
            f"| {name} | {len(each)} | {statistics.geometric_mean(each):.2f} | {min(each):.2f}-{max(each):.2f} |"
            for name, each in rows.items()
            if each
        ),
        "",
    ]


def medians(measured: Sequence[PeerComparison], peers: Sequence[str | None]) -> list[float]:
    """Return the median ratio to a peer of each model that has times."""
    ratios = [None if peer is None else each.ratios(peer) for each, peer in zip(measured, peers, strict=True)]
    return [statistics.median(each) for each in ratios if each is not None]
