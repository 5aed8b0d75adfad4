"""The Bundle: a folder that a device needs and nothing else, every file of it a standard one.

manifest.json        identity, preprocessing, labels, precision, hashes, measurements
manifest.sig         signatures of the manifest; only in bundles that vitedge sign signed
model.onnx           the graph in the precision asked for: uint8 NHWC frame in, float32 logits out
model.fp16.onnx      its 16-bit twin, where a device builds both and keeps the faster
openvino/model.xml   OpenVINO IR of that graph, with model_info; weights in openvino/model.bin
tensorrt/            what a device built of the graphs for itself; no part of what was converted
labels.txt           one label a line, in the order of the logits
golden.npz           frames (N×H×W×3 uint8, in channel order of the network), logits (N×classes float32), and the
                     twin's logits_fp16 where there is one
report.html, .json   what --precision auto tried; only in bundles that it chose
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import BundleError, BundleIntegrityError, BundleSchemaError
from vitedge.manifest import FileRecord, Manifest, parse_manifest
from vitedge.safety.files import read_bytes
from vitedge.safety.limits import MANIFEST_BYTES
from vitedge.signatures import SIGNATURES, Trust, trusted_keys, verify

MANIFEST = "manifest.json"
UNLISTED = (MANIFEST, SIGNATURES)
"""Files that the manifest does not list."""
MODEL_ONNX = "model.onnx"
MODEL_FP16_ONNX = "model.fp16.onnx"
OPENVINO_XML = "openvino/model.xml"
OPENVINO_BIN = "openvino/model.bin"
TENSORRT_BUILD = "tensorrt/build.json"
TENSORRT = "tensorrt"
LABELS = "labels.txt"
GOLDEN = "golden.npz"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"

TWIN_LOGITS = "logits_fp16"

INPUT_NAME = "frame"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class Golden:
    """Inputs and the logits that an engine must reproduce.

    Attributes:
        frames: ``N×H×W×3`` uint8, preprocessed, in the network's channel order.
        logits: ``N×classes`` float32, from ``model.onnx`` in ONNX Runtime.
        fp16_logits: the same from ``model.fp16.onnx``; None where the bundle has none.
    """

    frames: NDArray[np.uint8]
    logits: NDArray[np.float32]
    fp16_logits: NDArray[np.float32] | None = None

    def write(self, path: Path) -> None:
        """Write ``golden.npz``."""
        twin = {} if self.fp16_logits is None else {TWIN_LOGITS: self.fp16_logits}
        np.savez(path, frames=self.frames, logits=self.logits, **twin)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read.

    Attributes:
        path: its folder.
        manifest: the parsed ``manifest.json``.
        signed_by: id of the trusted key that signed the manifest; None where no signature was asked for.
    """

    path: Path
    manifest: Manifest
    signed_by: str | None = None

    @classmethod
    def open(cls, path: str | Path, *, trust: Trust | None = None) -> Bundle:
        """Read the manifest and check every file against its size and SHA-256.

        Args:
            path: the bundle's folder.
            trust: public keys, of which one has to have signed the manifest; None asks for no signature.

        Raises:
            BundleError: there is no bundle at ``path``.
            BundleSchemaError: the manifest is malformed or from a newer vitedge.
            BundleIntegrityError: a file is missing, truncated or altered.
            BundleSignatureError: no trusted key has signed it, or it was altered after that.
            UsageError: what is trusted is no key.
        """
        trusted = None if trust is None else trusted_keys(trust)
        folder = Path(path)
        manifest_path = folder / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(
                f"{folder} is not a bundle: it has no {MANIFEST}",
                expected="a folder that vitedge convert wrote",
                fix="vitedge convert MODEL --target cpu --precision int8 --calib IMAGES -o BUNDLE",
            )
        try:
            content = read_bytes(manifest_path, limit=MANIFEST_BYTES)
            signed_by = None if trusted is None else verify(content, folder, trusted)
            manifest = parse_manifest(_decoded(content, manifest_path), where=str(manifest_path))
            bundle = cls(path=folder, manifest=manifest, signed_by=signed_by)
            bundle._check_files()
        except OSError as error:
            raise BundleError(f"{folder} cannot be read: {error}", fix="check its permissions and the disk") from error
        return bundle

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files, the manifest apart."""
        return sum(record.bytes for record in self.manifest.files.values())

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no {name}", expected=f"one of {', '.join(self.manifest.files)}")
        return self.path / name

    def golden(self) -> Golden:
        """Read the golden vectors.

        Raises:
            BundleError: the bundle has none, or they are not two arrays.
        """
        path = self.file(GOLDEN)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                twin = np.asarray(arrays[TWIN_LOGITS]) if TWIN_LOGITS in arrays else None
                return Golden(np.asarray(arrays["frames"]), np.asarray(arrays["logits"]), twin)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BundleIntegrityError(
                f"{path} cannot be read: {error}",
                expected="NumPy arrays frames and logits",
                fix="convert the model again",
            ) from error

    def _check_files(self) -> None:
        for name, record in self.manifest.files.items():
            if not _is_inside(name):
                raise BundleIntegrityError(
                    f"{self.path / MANIFEST} lists {name!r}",
                    expected="paths inside the bundle",
                    fix="copy the bundle again from a source that you trust",
                )
            _check_file(self.path / name, record)


def open_bundle(bundle: Bundle | str | Path, *, trust: Trust | None = None) -> Bundle:
    """The bundle itself, or one that is read from its path; one whose signature is asked for is always read.

    Raises:
        BundleError: as ``Bundle.open``.
        UsageError: what is trusted is no key.
    """
    if isinstance(bundle, Bundle):
        return bundle if trust is None else Bundle.open(bundle.path, trust=trust)
    return Bundle.open(bundle, trust=trust)


def _is_inside(name: str) -> bool:
    """Whether a listed name stays in the bundle, read as POSIX and as Windows reads paths."""
    return all(".." not in kind(name).parts and not kind(name).anchor for kind in (PurePosixPath, PureWindowsPath))


def _check_file(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise BundleIntegrityError(f"{path} is missing", fix="copy the bundle again, or convert again")
    size = path.stat().st_size
    if size != record.bytes:
        raise BundleIntegrityError(
            f"{path} has {size} bytes",
            expected=f"{record.bytes} bytes",
            fix="the copy is cut off or altered: copy the bundle again",
        )
    if sha256_of(path) != record.sha256:
        raise BundleIntegrityError(
            f"{path} was altered: its SHA-256 differs from the manifest",
            expected=record.sha256,
            fix="copy the bundle again from a source that you trust",
        )


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleSchemaError(
            f"{path} is not UTF-8 text: {error}", fix="copy the bundle again, or convert again"
        ) from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
