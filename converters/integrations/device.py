"""A slim bundle: what a device needs to classify, with the network once.

A full bundle for OpenVINO holds its network twice, as ONNX graph and as IR, and the device reads the IR alone. The full
bundle stays on the host.

openvino/model.xml   the IR without indentation
openvino/model.bin   as it is
labels.txt           as it is
golden.npz           the first golden vectors
manifest.json        as it is, with the hashes of these files and ``slim_of``
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from vitedge.bundle.bundle import GOLDEN, LABELS, MANIFEST, OPENVINO_BIN, OPENVINO_XML, Bundle, Golden
from vitedge.bundle.manifest import dump_manifest
from vitedge.bundle.signatures import SIGNATURES
from vitedge.converters.publish import file_records
from vitedge.errors import UsageError
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.self_test import self_test
from vitedge.safety.limits import IR_BYTES

VECTORS = 4
"""Golden vectors of a slim bundle; a full one has up to eight. Each takes more than a tenth of a megabyte."""
_BETWEEN_TAGS = re.compile(r">\s+<")


def write_device(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write a slim bundle, and run its self-test on this machine.

    Args:
        bundle: a full bundle for OpenVINO.
        folder: an empty folder, which becomes the slim bundle.

    Returns:
        Notes for the user, a sentence each.

    Raises:
        UsageError: the bundle holds its network only once.
        BundleError: a file of the bundle was altered.
        EngineError: the slim bundle does not pass its self-test here.
        MissingExtraError: OpenVINO is not installed.
    """
    _check_full(bundle)
    _write_files(bundle, folder)
    golden = replace(bundle.manifest.golden, count=_write_golden(bundle, folder))
    manifest = replace(bundle.manifest, golden=golden, files=file_records(folder), slim_of=bundle.digest)
    (folder / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8")
    slim = Bundle.open(folder)
    with closing(open_engine(slim)) as engine:
        sqnr_db = self_test(slim, engine).sqnr_db
    is_signed = (bundle.path / SIGNATURES).exists()
    return (
        f"{slim.size_bytes / 1e6:.1f} MB of {bundle.size_bytes / 1e6:.1f} MB: the network as OpenVINO IR, without its "
        "ONNX graph",
        f"its self-test on {golden.count} vectors passed on this machine: SQNR {sqnr_db:.1f} dB",
        f"copy it to the device, and keep {bundle.path} on the host: other engines, other formats and "
        "eval --layers need its graph",
        *(["sign it again: the signature of the full bundle is not for it"] if is_signed else []),
    )


def _check_full(bundle: Bundle) -> None:
    """Refuse a bundle that holds no second copy of its network."""
    if bundle.manifest.slim_of is not None:
        raise UsageError(f"{bundle.path} is a slim bundle already", fix="copy it to the device as it is")
    if OPENVINO_XML not in bundle.manifest.files:
        raise UsageError(
            f"{bundle.path} holds its network once: a device of the target {bundle.manifest.target} compiles its graph",
            expected="a bundle for OpenVINO, of the target cpu",
            fix="copy it to the device as it is",
        )


def _write_files(bundle: Bundle, folder: Path) -> None:
    (folder / OPENVINO_XML).parent.mkdir()
    xml = bundle.read(OPENVINO_XML, limit=IR_BYTES).decode("utf-8")
    (folder / OPENVINO_XML).write_text(_BETWEEN_TAGS.sub("><", xml), encoding="utf-8")
    for name in (OPENVINO_BIN, LABELS):
        (folder / name).write_bytes(bundle.read(name))


def _write_golden(bundle: Bundle, folder: Path) -> int:
    """Write the first golden vectors, and return their number."""
    golden = bundle.golden()
    kept = Golden(golden.frames[:VECTORS], golden.logits[:VECTORS])
    kept.check()
    kept.write(folder / GOLDEN)
    return len(kept.frames)
