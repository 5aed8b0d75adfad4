"""The result of ``bench`` as JSON for scripts and as a table for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.counts import counted
from vitedge.records import encode
from vitedge.runtime.bench.measure import BenchReport, Measurement
from vitedge.runtime.bench.ratio import Ratio
from vitedge.runtime.bench.timing import Samples
from vitedge.runtime.system.machine import UNAVAILABLE
from vitedge.safety.escape import terminal_lines
from vitedge.version import VERSION

JSON_VERSION = 1

STAGES = ("preprocess", "infer", "postprocess")


def to_json(report: BenchReport) -> dict[str, Any]:
    """Return the report as a JSON object; keys are added, never renamed.

    Percentiles interpolate linearly between the raw times, which are neither rounded nor clipped.
    """
    height, width = report.frame_size
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "vitedge_version": VERSION,
        **_measurement(report.measurement),
        "frame_size": {"width": width, "height": height},
        "threads": report.threads,
        "machine": {
            "governors": report.machine.governors,
            "load_average": report.machine.load_average,
            "cpus": report.machine.cpus,
        },
    }
    if report.against is not None and report.ratio is not None:
        document["against"] = _measurement(report.against)
        document["ratio"] = _ratio(report.ratio)
    return document


def _measurement(measurement: Measurement) -> dict[str, Any]:
    samples, info, cold = measurement.samples, measurement.info, measurement.cold_start
    return {
        "bundle": measurement.bundle,
        "model": measurement.model,
        "latency_ms": latency_ms(samples),
        "stages_ms": {stage: percentiles(getattr(samples, stage), 50, 99) for stage in STAGES},
        "throughput_fps": measurement.throughput_fps,
        "iterations": len(samples),
        "warmup_iterations": measurement.warm_up.iterations,
        "stable": measurement.stable,
        "drift_percent": 100.0 * samples.drift,
        "device": info.device,
        "engine": info.name,
        "engine_version": info.version,
        "effective_precision": info.effective_precision,
        "rest_precision": info.rest_precision,
        "audit": encode(measurement.audit),
        "audit_differences": list(measurement.differences),
        "cold_start_ms": None if cold is None else cold.total_ms,
        "cold_start": None
        if cold is None
        else {"import_ms": cold.import_ms, "load_ms": cold.load_ms, "first_ms": cold.first_ms},
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {
        "p50": ratio.p50,
        "interval": [ratio.low, ratio.high],
        "confidence": ratio.confidence,
        "method": "median of the rounds' ratios of p50, between order statistics",
        "rounds": list(ratio.rounds),
    }


def latency_ms(samples: Samples) -> dict[str, float]:
    """Return the mean, percentiles and minimum of the whole call, in milliseconds."""
    milliseconds = samples.milliseconds
    return {
        "mean": float(milliseconds.mean()),
        **percentiles(milliseconds, 50, 90, 99),
        "min": float(milliseconds.min()),
    }


def percentiles(values: NDArray[np.float64], *percents: int) -> dict[str, float]:
    """Return ``{"p50": …}`` for the given percents, interpolated linearly."""
    return {f"p{percent}": float(np.percentile(values, percent)) for percent in percents}


def to_text(report: BenchReport) -> str:
    """Format the report as a table."""
    height, width = report.frame_size
    measured = [report.measurement] if report.against is None else [report.measurement, report.against]
    lines = [line for each in measured for line in (*_table(each), "")]
    lines.append(f"frames of {width}x{height}, {_threads(report)}, {_machine(report)}")
    if report.ratio is not None:
        lines.extend(("", *_comparison(report, report.ratio)))
    return terminal_lines(lines)


def _table(measurement: Measurement) -> list[str]:
    samples, info = measurement.samples, measurement.info
    rest = "" if info.rest_precision == info.effective_precision else f", rest {info.rest_precision}"
    return [
        f"{measurement.bundle}  {measurement.model}",
        f"  {info.name} {info.version} on {info.device}, {info.effective_precision}{rest}",
        f"  {'ms':<12}{'p50':>9}{'p90':>9}{'p99':>9}{'min':>9}{'mean':>9}",
        *(
            _row(name, values)
            for name, values in (
                ("latency", samples.milliseconds),
                *((stage, getattr(samples, stage)) for stage in STAGES),
            )
        ),
        f"  {measurement.throughput_fps:.1f} frames/s, {counted(len(samples), 'call')} after {_stability(measurement)}",
        f"  cold start {_cold(measurement)}",
        *([] if measurement.audit is None else [f"  {line}" for line in measurement.audit.lines()]),
        *(f"  warning: {difference}" for difference in measurement.differences),
    ]


def _row(name: str, values: NDArray[np.float64]) -> str:
    numbers = (*np.percentile(values, (50, 90, 99)), values.min(), values.mean())
    return f"  {name:<12}" + "".join(f"{number:>9.3f}" for number in numbers)


def _stability(measurement: Measurement) -> str:
    unsettled = "" if measurement.warm_up.settled else "did not settle while warming up, "
    state = "stable" if measurement.stable else f"NOT stable: {unsettled}drift {100 * measurement.samples.drift:+.1f} %"
    return f"{measurement.warm_up.iterations} to warm up, {state}"


def _cold(measurement: Measurement) -> str:
    cold = measurement.cold_start
    if cold is None:
        return UNAVAILABLE
    parts = f"import {cold.import_ms:.0f}, load {cold.load_ms:.0f}, first prediction {cold.first_ms:.0f}"
    return f"{cold.total_ms:.0f} ms ({parts})"


def _threads(report: BenchReport) -> str:
    return "threads left to the engine" if report.threads is None else f"threads: {report.threads}"


def _machine(report: BenchReport) -> str:
    load = report.machine.load_average
    shown = load if isinstance(load, str) else f"{load:.2f}"
    return f"governor {report.machine.governors}, load average {shown} on {report.machine.cpus} CPUs"


def _comparison(report: BenchReport, ratio: Ratio) -> list[str]:
    interval = f"{ratio.stated_confidence:.3g} % interval {ratio.low:.3f} to {ratio.high:.3f}"
    other = report.against.bundle if report.against else ""
    return [
        f"p50 ratio {ratio.p50:.3f}   {interval}, {counted(len(ratio.rounds), 'round')}",
        f"  of {report.measurement.bundle} to {other}; below 1 it is the faster",
    ]
