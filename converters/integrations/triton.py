"""Export for Triton Inference Server: a model repository with one model, its configuration and its labels.

The OpenVINO backend serves bundles for the CPU, the TensorRT backend serves bundles with a plan, and ONNX Runtime on a
GPU serves all others. Shapes are static and include the batch, so ``max_batch_size`` is 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.bundle import (
    INPUT_NAME,
    LABELS,
    MODEL_ONNX,
    OPENVINO_BIN,
    OPENVINO_XML,
    OUTPUT_NAME,
    Bundle,
    data_of,
)
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.targets import target_named
from vitedge.converters.integrations.built import built_plan
from vitedge.converters.integrations.label_text import label_text
from vitedge.runtime.engines.tensorrt.plan_store import MODEL_PLAN, StoredPlan
from vitedge.safety.escape import pbtxt

CONFIGURATION = "config.pbtxt"
VERSION = "1"
NAME_CHARACTERS = 100


@dataclass(frozen=True)
class TritonBackend:
    """A backend of Triton.

    Attributes:
        setting: the line of the configuration that names it.
        kind: kind of the instances, ``KIND_CPU`` or ``KIND_GPU``.
        files: files of the bundle that it reads; each keeps its name, without its folder.
    """

    setting: str
    kind: str
    files: tuple[str, ...] = ()


OPENVINO = TritonBackend('backend: "openvino"', "KIND_CPU", (OPENVINO_XML, OPENVINO_BIN))
ONNX_RUNTIME = TritonBackend('platform: "onnxruntime_onnx"', "KIND_GPU", (MODEL_ONNX,))
TENSORRT = TritonBackend('platform: "tensorrt_plan"', "KIND_GPU")


def write_triton(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write the repository.

    Args:
        bundle: a bundle of any target.
        folder: an empty folder, which becomes the repository.

    Returns:
        Notes for the user, a sentence each.

    Raises:
        UsageError: a label is no line of text.
        BundleIntegrityError: a file of the bundle, or its plan, was altered.
    """
    labels = label_text(bundle.manifest.model.labels, separator="\n", tool="Triton")
    plan = _served_plan(bundle)
    backend = _backend_of(bundle, plan)
    name = model_name(bundle.manifest)
    version = folder / name / VERSION
    version.mkdir(parents=True)
    for file in (*backend.files, *(data_of(each) for each in backend.files if data_of(each) in bundle.manifest.files)):
        (version / Path(file).name).write_bytes(bundle.read(file))
    if plan is not None:
        (version / MODEL_PLAN).write_bytes(plan.read())
    (folder / name / LABELS).write_text(labels, encoding="utf-8")
    (folder / name / CONFIGURATION).write_text(configuration(bundle.manifest, backend), encoding="utf-8")
    return (
        "serve it: tritonserver --model-repository, and this folder",
        f"clients send {INPUT_NAME} as uint8, resized and cropped as docs/bundle.md says, and read {OUTPUT_NAME}; "
        f"a {bundle.manifest.model.activation} turns them into scores",
        *([] if plan is None else [_plan_note(plan)]),
    )


def _plan_note(plan: StoredPlan) -> str:
    note = f"the plan runs on {plan.record.fingerprint.described}, and on nothing else"
    if plan.is_built_here:
        return note
    return f"{note}; this machine does not remember building it, and a plan is code: serve it only if you know who did"


def _served_plan(bundle: Bundle) -> StoredPlan | None:
    """Return the plan of the bundle if Triton can run it: plans of TensorRT for RTX are another format."""
    plan = built_plan(bundle)
    return plan if plan is not None and plan.record.fingerprint.module == "tensorrt" else None


def _backend_of(bundle: Bundle, plan: StoredPlan | None) -> TritonBackend:
    if plan is not None:
        return TENSORRT
    return OPENVINO if target_named(bundle.manifest.target).backend == "openvino" else ONNX_RUNTIME


def model_name(manifest: Manifest) -> str:
    """Turn the name of the model into the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", manifest.model.name[:NAME_CHARACTERS]).strip(".") or "vitedge"


def configuration(manifest: Manifest, backend: TritonBackend) -> str:
    """Write the text of ``config.pbtxt``."""
    height, width = manifest.model.preprocessing.input_size
    return f"""\
name: "{pbtxt(model_name(manifest))}"
{backend.setting}
max_batch_size: 0
input [
  {{
    name: "{INPUT_NAME}"
    data_type: TYPE_UINT8
    dims: [ 1, {height}, {width}, 3 ]
  }}
]
output [
  {{
    name: "{OUTPUT_NAME}"
    data_type: TYPE_FP32
    dims: [ 1, {manifest.model.num_classes} ]
    label_filename: "{LABELS}"
  }}
]
instance_group [
  {{
    count: 1
    kind: {backend.kind}
  }}
]
"""
