"""The Bundle: a folder with everything that a device needs, in standard file formats.

manifest.json        identity, preprocessing, labels, precision, hashes, measurements
manifest.sig         signatures of the manifest; only in signed bundles
model.onnx           the graph in the requested precision: uint8 NHWC frame in, float32 logits out; not in slim bundles
model.fp16.onnx      its 16-bit twin, for devices that build both graphs and keep the faster one
openvino/model.xml   OpenVINO IR of model.onnx, with model_info; weights in openvino/model.bin
tensorrt/            plans that a device built for itself; not part of the converted bundle
labels.txt           one label a line, in the order of the logits
golden.npz           frames (N×H×W×3 uint8, in the network's channel order), logits (N×classes float32), and
                     logits_fp16 of the twin, if the bundle has one
report.html, .json   report of the automatic choice of precision; only in bundles that it chose
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.folder import DISTRUST, check_folder, check_listed, check_size
from vitedge.bundle.folder import MANIFEST as MANIFEST
from vitedge.bundle.folder import TENSORRT as TENSORRT
from vitedge.bundle.manifest import Manifest, dump_manifest, parse_manifest
from vitedge.bundle.signatures import Trust, trusted_keys, verify
from vitedge.bundle.targets import TARGETS
from vitedge.counts import counted
from vitedge.errors import BundleError, BundleIntegrityError, BundleSchemaError
from vitedge.files import did_you_mean_beside
from vitedge.safety.files import open_regular, read_bytes
from vitedge.safety.limits import CHECKPOINT_BYTES, GOLDEN_BYTES, GRAPH_BYTES, MANIFEST_BYTES
from vitedge.safety.npz import read_npz
from vitedge.safety.onnx_scan import EXTERNAL, refused_parts

MODEL_ONNX = "model.onnx"
MODEL_FP16_ONNX = "model.fp16.onnx"
GRAPH_DATA = ".data"
"""Ends the name of the file with the weights of a graph beyond 2 GB; the beginning is the graph's name."""
OPENVINO_XML = "openvino/model.xml"
OPENVINO_BIN = "openvino/model.bin"
LABELS = "labels.txt"
GOLDEN = "golden.npz"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"

TWIN_LOGITS = "logits_fp16"

INPUT_NAME = "frame"
OUTPUT_NAME = "logits"

_ARRAYS = {"frames": ("u1", 4), "logits": ("f4", 2), TWIN_LOGITS: ("f4", 2)}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Golden:
    """Golden vectors: inputs, and the logits that an engine must reproduce.

    Attributes:
        frames: ``N×H×W×3`` uint8, preprocessed, in the network's channel order.
        logits: ``N×classes`` float32, from ``model.onnx`` in ONNX Runtime.
        fp16_logits: the same from ``model.fp16.onnx``; None if the bundle has no such graph.
    """

    frames: NDArray[np.uint8]
    logits: NDArray[np.float32]
    fp16_logits: NDArray[np.float32] | None = None

    def check(self) -> None:
        """Refuse vectors that every engine would pass, or no engine could.

        Raises:
            ValueError: a shape or type is wrong, there is no vector, a logit is not finite, or all logits of a graph
                are equal.
        """
        frames = self.frames
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise ValueError(f"its frames are {_described(frames)}; expected (frames, height, width, 3) uint8")
        for logits in (self.logits, self.fp16_logits):
            if logits is not None:
                _check_logits(logits, len(frames))

    def write(self, path: Path) -> None:
        """Write ``golden.npz``, compressed."""
        twin = {} if self.fp16_logits is None else {TWIN_LOGITS: self.fp16_logits}
        np.savez_compressed(path, frames=self.frames, logits=self.logits, **twin)  # type: ignore[arg-type]


def data_of(graph: str) -> str:
    """Return the name of the file with the weights of a graph beyond 2 GB."""
    return f"{graph}{GRAPH_DATA}"


def _check_logits(logits: NDArray[Any], vectors: int) -> None:
    if logits.dtype != np.float32 or logits.ndim != 2 or len(logits) != vectors or not logits.size:
        raise ValueError(f"its logits are {_described(logits)}; expected ({vectors}, classes) float32")
    if not np.all(np.isfinite(logits)):
        raise ValueError("its logits are not finite: any engine would pass")
    if not np.any(logits) or (logits.size > 1 and logits.min() == logits.max()):
        raise ValueError(f"its logits are all {logits.flat[0]:g}: an engine that computes nothing would pass")


def _described(array: NDArray[Any]) -> str:
    return f"{array.shape} {array.dtype}"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read.

    ``read`` and ``read_into`` check the bytes that they return. Even if the folder changes later, nothing is used that
    the manifest does not list.

    Attributes:
        path: the bundle's folder.
        manifest: the parsed ``manifest.json``.
        signed_by: ID of the trusted key that signed the manifest; None if no signature was required.
        manifest_sha256: hex SHA-256 of the parsed bytes; empty for a manifest that was not read from disk.
    """

    path: Path
    manifest: Manifest
    signed_by: str | None = None
    manifest_sha256: str = field(default="", compare=False)

    @classmethod
    def open(cls, path: str | Path, *, trust: Trust | None = None, contents: bool = True) -> Bundle:
        """Read the manifest and check every file against its size and SHA-256.

        Args:
            path: the bundle's folder.
            trust: public keys; one of them must have signed the manifest. None requires no signature.
            contents: whether to check SHA-256 now; if not, the caller does so, with ``check`` or by reading.

        Raises:
            BundleError: there is no bundle at ``path``.
            BundleSchemaError: the manifest is malformed or from a newer vitedge.
            BundleIntegrityError: a file is missing, truncated or altered, or the folder holds an unlisted file.
            BundleSignatureError: no trusted key has signed the bundle, or it was altered after signing.
            UsageError: ``trust`` holds no public key.
        """
        trusted = None if trust is None else trusted_keys(trust)
        folder = Path(path)
        where = folder / MANIFEST
        try:
            content = _read_manifest(folder)
            signed_by = None if trusted is None else verify(content, folder, trusted)
            manifest = parse_manifest(_decoded(content, where), where=str(where))
            _check_supported(manifest, where)
            check_listed(where, manifest.files)
            check_folder(folder, manifest.files)
        except (OSError, ValueError) as error:
            raise BundleError(f"{folder} cannot be read: {error}", fix="check its permissions and the disk") from error
        bundle = cls(folder, manifest, signed_by, hashlib.sha256(content).hexdigest())
        if contents:
            bundle.check(manifest.files)
        return bundle

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of the manifest, which holds each file's hash: it identifies the whole bundle."""
        return self.manifest_sha256 or hashlib.sha256(dump_manifest(self.manifest).encode()).hexdigest()

    def unchanged_manifest(self) -> bytes:
        """Read the manifest again, byte by byte as it was when the bundle was opened.

        Raises:
            BundleError: it cannot be read.
            BundleIntegrityError: it has changed: another program wrote into the bundle, or replaced it.
        """
        where = self.path / MANIFEST
        try:
            content = read_bytes(where, limit=MANIFEST_BYTES)
        except (OSError, ValueError) as error:
            raise BundleError(f"{where} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise BundleIntegrityError(
                f"{where} has changed since the bundle was opened",
                fix="run it again while no other program writes there",
            )
        return content

    @property
    def size_bytes(self) -> int:
        """Return the size of all files without the manifest, in bytes."""
        return sum(record.bytes for record in self.manifest.files.values())

    def file(self, name: str) -> Path:
        """Return the path of a listed file, for messages and other programs; use ``read`` to read it.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name in self.manifest.files:
            return self.path / name
        slim_of = self.manifest.slim_of
        if slim_of is not None and name == MODEL_ONNX:
            raise BundleError(
                f"{self.path} is a slim bundle, without the graph {name}",
                expected=f"the full bundle that it was made from, whose manifest.json has the SHA-256 {slim_of}",
                fix="do this on the host, with the full bundle",
            )
        raise BundleError(f"{self.path} has no {name}", expected=f"one of {', '.join(self.manifest.files)}")

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of listed files.

        Raises:
            BundleError: the bundle has no such file.
            BundleIntegrityError: a file is missing, truncated, altered or too large.
        """
        for name in names:
            digest = hashlib.sha256()
            with self._opened(name, GRAPH_BYTES) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
            self._check_hash(name, digest.hexdigest())

    def read(self, name: str, *, limit: int = GRAPH_BYTES) -> bytes:
        """Read a listed file, and check its bytes.

        Args:
            name: name of the file.
            limit: largest size in bytes.

        Raises:
            BundleError: the bundle has no such file.
            BundleIntegrityError: the file is missing, truncated, altered or too large.
        """
        with self._opened(name, limit) as stream:
            content = stream.read(self.manifest.files[name].bytes)
        self._check_hash(name, hashlib.sha256(content).hexdigest())
        return content

    def read_into(self, name: str, allocate: Callable[[int], NDArray[np.uint8]]) -> None:
        """Read a listed file into the caller's memory, so that weights are held once.

        Args:
            name: name of the file.
            allocate: returns a writable buffer of so many bytes; called after the size of the file is checked.

        Raises:
            BundleError: the bundle has no such file.
            BundleIntegrityError: the file is missing, truncated, altered or too large.
        """
        with self._opened(name, GRAPH_BYTES) as stream:
            view = allocate(self.manifest.files[name].bytes).data
            filled = 0
            while filled < len(view) and (count := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
                filled += count
        self._check_hash(name, hashlib.sha256(view[:filled]).hexdigest())

    def read_graph(self, name: str) -> bytes:
        """Read an ONNX graph; refuse loops, functions and external data, but for a listed file of ``graph_data``.

        Raises:
            BundleError: the bundle has no such file.
            BundleIntegrityError: the file is missing, truncated, altered or too large, is no ONNX graph, or has
                external data, loops or functions.
        """
        content = self.read(name)
        try:
            own = data_of(name) if data_of(name) in self.manifest.files else None
            refused = next(refused_parts(content, data=own), "")
        except ValueError as error:
            raise BundleIntegrityError(
                f"{self.path / name} is no ONNX graph: {error}", fix="convert the model again"
            ) from error
        if refused == EXTERNAL:
            raise BundleIntegrityError(
                f"a tensor of {self.path / name} has its data in another file",
                expected="a graph with all of its data in it",
                fix=DISTRUST,
            )
        if refused:
            raise BundleIntegrityError(
                f"{self.path / name} has {refused}, which may never end",
                expected="a graph without loops and functions, as vitedge convert writes it",
                fix=DISTRUST,
            )
        return content

    def graph_data(self, name: str) -> NDArray[np.uint8] | None:
        """Read the weights of an ONNX graph beyond 2 GB; None for a graph that holds its weights.

        Raises:
            BundleIntegrityError: the file is missing, truncated, altered or too large.
        """
        data = data_of(name)
        if data not in self.manifest.files:
            return None
        held = np.empty(0, np.uint8)

        def allocate(size: int) -> NDArray[np.uint8]:
            nonlocal held
            held = np.empty(size, np.uint8)
            return held

        self.read_into(data, allocate)
        return held

    def golden(self) -> Golden:
        """Read the golden vectors.

        Raises:
            BundleError: the bundle has no golden vectors.
            BundleIntegrityError: the vectors are damaged, too large, of another shape or type than the manifest says,
                not finite, or all equal.
        """
        path = self.file(GOLDEN)
        try:
            arrays = read_npz(self.read(GOLDEN, limit=2 * GOLDEN_BYTES), _ARRAYS, limit=GOLDEN_BYTES)
            golden = Golden(arrays["frames"], arrays["logits"], arrays.get(TWIN_LOGITS))
            golden.check()
            self._check_fit(golden)
        except KeyError as error:
            raise _unusable(path, f"it has no array {error}") from error
        except ValueError as error:
            raise _unusable(path, str(error)) from error
        return golden

    def _check_fit(self, golden: Golden) -> None:
        """Compare golden vectors with the manifest; more vectors than it says are accepted."""
        model, least = self.manifest.model, self.manifest.golden.count
        if len(golden.frames) < least:
            raise ValueError(f"it has {counted(len(golden.frames), 'frame')}; the manifest says {least}")
        shape, expected = golden.frames.shape[1:], (*model.preprocessing.input_size, 3)
        if shape != expected:
            raise ValueError(f"its frames have the shape {shape}; the network's input has the shape {expected}")
        if golden.logits.shape[1] != model.num_classes:
            raise ValueError(
                f"it has {counted(golden.logits.shape[1], 'logit')} a frame; the model has {model.num_classes}"
            )

    @contextmanager
    def _opened(self, name: str, limit: int) -> Iterator[BinaryIO]:
        """Open a listed file at its beginning, and check its size."""
        path, record = self.file(name), self.manifest.files[name]
        try:
            with open_regular(path, limit=limit) as stream:
                check_size(path, os.fstat(stream.fileno()).st_size, record)
                yield stream
        except FileNotFoundError as error:
            raise BundleIntegrityError(f"{path} is missing", fix="copy the bundle again, or convert again") from error
        except (OSError, ValueError) as error:
            raise BundleIntegrityError(f"{path} cannot be read: {error}", fix=DISTRUST) from error

    def _check_hash(self, name: str, found: str) -> None:
        expected = self.manifest.files[name].sha256
        if found != expected:
            raise BundleIntegrityError(
                f"{self.path / name} was altered: its SHA-256 differs from the manifest",
                expected=expected,
                fix=DISTRUST,
            )


def open_bundle(bundle: Bundle | str | Path, *, trust: Trust | None = None, contents: bool = True) -> Bundle:
    """Return a bundle as it is, or open it from its path; with ``trust`` it is always read from disk.

    Args:
        bundle: a bundle, or the path of a bundle.
        trust: as for ``Bundle.open``.
        contents: as for ``Bundle.open``.

    Raises:
        BundleError: ``Bundle.open`` refuses the bundle.
        UsageError: ``trust`` holds no public key.
    """
    if isinstance(bundle, Bundle) and trust is None:
        return bundle
    return Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle, trust=trust, contents=contents)


def _check_supported(manifest: Manifest, where: Path) -> None:
    """Refuse values that the schema allows and this version cannot use."""
    if manifest.target not in {target.name for target in TARGETS}:
        raise BundleSchemaError(
            f"{where} is for the target {manifest.target!r:.80}, which this vitedge does not know",
            expected=f"one of {', '.join(target.name for target in TARGETS)}",
            fix="upgrade vitedge on this machine: pip install --upgrade vitedge",
        )
    manifest.golden.check(where)


def _read_manifest(folder: Path) -> bytes:
    try:
        return read_bytes(folder / MANIFEST, limit=MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        exists = os.path.lexists(folder)
        near = "" if exists else did_you_mean_beside(folder)
        raise BundleError(
            f"{folder} is not a bundle: {f'it has no {MANIFEST}' if exists else 'there is no such folder'}",
            expected="a folder that vitedge convert wrote",
            fix=f"{near or 'check the path;'} vitedge.convert(model, target='cpu', precision='int8', calib=IMAGES) "
            "makes one",
        ) from error


def _unusable(path: Path, problem: str) -> BundleIntegrityError:
    return BundleIntegrityError(
        f"{path} cannot be read: {problem}",
        expected="NumPy arrays frames and logits, as vitedge convert writes them",
        fix="convert the model again",
    )


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleSchemaError(
            f"{path} is not UTF-8 text: {error}", fix="copy the bundle again, or convert again"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's contents.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path, limit=CHECKPOINT_BYTES) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
