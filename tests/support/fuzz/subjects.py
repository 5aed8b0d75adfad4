"""What vitedge does with a mutated file, and whether an answer that it accepts is right.

A subject is made once in a worker. Its ``run`` writes one mutated file, gives it to vitedge as a user would, and either
returns, having checked the answer, or lets the exception through.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from fuzz import mutations, seeds
from fuzz.mutations import JsonMutator, Mutation, ZipMutator
from vitedge.bundle.bundle import GOLDEN, MANIFEST, MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML
from vitedge.errors import CheckpointError, VitedgeError
from vitedge.metrics import sqnr_db
from vitedge.safety.escape import terminal

LEAST_SQNR_DB = 30.0
FRAMES = 8


class WrongAnswerError(Exception):
    """vitedge accepted a file and gave an answer that is wrong or unsafe to print."""


@dataclass(frozen=True)
class Subject:
    """One format.

    Attributes:
        seeds: good files.
        mutate: makes a bad one of a good one.
        run: gives it to vitedge.
    """

    seeds: Sequence[bytes]
    mutate: Mutation
    run: Callable[[bytes], None]


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise WrongAnswerError(what)


class Bundles:
    """A bundle of which one file is replaced, its hash with it: whoever writes a bundle writes its hashes.

    Args:
        scratch: folder to work in.
    """

    def __init__(self, scratch: Path) -> None:
        self.good = seeds.bundle(scratch / "good.bundle")
        self._bad = scratch / "bad.bundle"
        self.true = self._answers(self.good)

    def _answers(self, path: Path) -> tuple[Any, Any]:
        with np.load(path / GOLDEN) as golden:
            return golden["frames"], golden["logits"]

    def content(self, name: str) -> bytes:
        """Of a file of the good bundle."""
        return (self.good / name).read_bytes()

    def run(self, name: str, content: bytes) -> None:
        """Load the bundle with another file, inspect it, and classify."""
        shutil.rmtree(self._bad, ignore_errors=True)
        shutil.copytree(self.good, self._bad)
        (self._bad / name).write_bytes(content)
        if name != MANIFEST:
            manifest = json.loads((self._bad / MANIFEST).read_bytes())
            record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            manifest["files"][name] = record
            (self._bad / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        inspected(self._bad)
        self._classify(self._bad, "onnxruntime" if name == MODEL_ONNX else None)

    def _classify(self, path: Path, engine: str | None) -> None:
        import vitedge

        frames, logits = self.true
        with vitedge.load(path, engine=engine) as classifier:
            reached = np.stack([classifier.infer(frame) for frame in frames])
            _check(sqnr_db(logits, reached) >= LEAST_SQNR_DB, "the self-test passed an engine with wrong logits")
            prediction = classifier.classify(np.full((40, 50, 3), 90, np.uint8))
        _check(all(0.0 <= each.score <= 1.0 for each in prediction.topk), "scores are no probabilities")


def inspected(path: Path) -> None:
    """``vitedge inspect`` as text and as JSON: the output is printable, and errors are explained."""
    from vitedge.cli import main

    for options in ([], ["--json"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["inspect", str(path), *options])
        for text in (out.getvalue(), err.getvalue()):
            text.encode("utf-8")
            _check(
                not any((ord(each) < 32 and each not in "\n\t") or 0x7F <= ord(each) < 0xA0 for each in text),
                "controls",
            )
        _check(code in (0, 1), f"inspect ended with {code}")
        if code == 1:
            _check(err.getvalue().startswith("error: "), "inspect failed without an error")
        elif options:
            json.loads(out.getvalue())


def _is_printable(text: str) -> bool:
    return all(terminal(line) == line for line in text.split("\n"))


def printable(error: VitedgeError) -> None:
    """Check that the text of an error can be written to a terminal."""
    text = str(error)
    text.encode("utf-8")
    _check(_is_printable(text), f"an error with control characters: {text!r:.200}")
    _check(len(text) < 20_000, "an error longer than 20,000 characters")


def _of_bundle(name: str, mutation: Callable[[str, bytes], tuple[Sequence[bytes], Mutation]]) -> Any:
    def make(scratch: Path, marker: str) -> Subject:
        made = Bundles(scratch)
        contents, mutate = mutation(marker, made.content(name))
        return Subject(contents, mutate, lambda content: made.run(name, content))

    return make


def _safetensors(scratch: Path, marker: str) -> Subject:
    folder = seeds.timm_folder(scratch / "timm")
    path = folder / "model.safetensors"
    seed = path.read_bytes()
    return Subject(
        [seed], mutations.safetensors(JsonMutator(marker)), lambda content: _load_weights(folder, path, content)
    )


def _torch_checkpoint(scratch: Path, marker: str) -> Subject:
    import safetensors.torch

    folder = seeds.timm_folder(scratch / "timm")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    odd = [_odd(tensors, name) for name in ("sparse", "meta", "complex", "expanded", "half", "nested", "number", "key")]
    contents = [seeds.torch_file(each) for each in (tensors, {"model": tensors, "epoch": 3}, *odd)]
    mutate = ZipMutator(mutations.pickles(marker))
    return Subject(contents, mutate, lambda content: _load_weights(folder, path, content))


def _odd(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[Any, Any]:
    """A state dict in which one entry is of a kind that no layer takes."""
    changed: dict[Any, Any] = dict(tensors)
    name = next(iter(changed))
    shape = changed[name].shape
    makers: Mapping[str, Callable[[], Any]] = {
        "sparse": lambda: changed[name].to_sparse(),
        "meta": lambda: torch.empty(shape, device="meta"),
        "complex": lambda: changed[name].to(torch.complex64),
        "expanded": lambda: torch.zeros(1).expand(1 << 40),
        "half": lambda: changed[name].half(),
        "nested": lambda: {"deep": changed[name]},
        "number": lambda: 3.0,
    }
    if kind == "key":
        changed[7] = changed.pop(name)
    else:
        changed[name] = makers[kind]()
    return changed


def _load_weights(folder: Path, path: Path, content: bytes) -> None:
    from vitedge.converters.sources.parse import HubFolder
    from vitedge.converters.sources.timm.models import load_timm_folder

    path.write_bytes(content)
    model = load_timm_folder(HubFolder(folder), labels=None)
    for name, tensor in model.module.state_dict().items():
        _check(bool(torch.isfinite(tensor).all()), f"{name} is not finite")


def _timm_config(scratch: Path, marker: str) -> Subject:
    from vitedge.converters.sources.parse import HubFolder
    from vitedge.converters.sources.timm.models import load_timm_folder

    folder = seeds.timm_folder(scratch / "timm")

    def run(content: bytes) -> None:
        (folder / "config.json").write_bytes(content)
        load_timm_folder(HubFolder(folder), labels=None)

    return Subject([seeds.timm_config()], JsonMutator(marker), run)


def _transformers(file: str) -> Any:
    def make(scratch: Path, marker: str) -> Subject:
        from vitedge.converters.sources.parse import HubFolder
        from vitedge.converters.sources.transformers.models import load_transformers

        folder = seeds.transformers_folder(scratch / "transformers")
        seed = (folder / file).read_bytes()

        def run(content: bytes) -> None:
            (folder / file).write_bytes(content)
            load_transformers(HubFolder(folder), labels=None)

        return Subject([seed], JsonMutator(marker), run)

    return make


def _given_preprocessing(scratch: Path, marker: str) -> Subject:
    from vitedge.converters.sources.preprocessing import read_preprocessing
    from vitedge.runtime.preprocess.preprocessor import Preprocessor

    path = scratch / "preprocessing.json"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        preprocessing = read_preprocessing(str(path), None)
        frame = Preprocessor(preprocessing)(np.zeros((20, 30, 3), np.uint8), order="RGB")
        _check(frame.shape == (*preprocessing.input_size, 3), "a frame of another size")

    return Subject([seeds.PREPROCESSING, seeds.PROCESSOR], JsonMutator(marker), run)


def _labels(scratch: Path, marker: str) -> Subject:
    from vitedge.converters.sources.labels import read_labels

    path = scratch / "labels.txt"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        for label in read_labels(path):
            label.encode("utf-8")
            controls = any(unicodedata.category(each) in ("Cc", "Cs") for each in label)
            _check(bool(label) and not controls, f"the label {label!r:.80}")

    return Subject([seeds.LABELS], mutations.text(marker), run)


def _images(scratch: Path, marker: str) -> Subject:
    from vitedge.runtime.sources.images.reading import read_image

    path = scratch / "image.jpg"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        pixels = read_image(path)
        _check(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, "an image of another shape")

    return Subject(seeds.images(), mutations.any_bytes, run)


def _videos(scratch: Path, marker: str) -> Subject:
    from vitedge.runtime.sources.open import open_source

    clips = seeds.videos(scratch / "clips")

    def run(content: bytes) -> None:
        suffix = next(
            (suffix for suffix, clip in clips if clip[:4] == content[:4] or clip[4:8] == content[4:8]), ".mp4"
        )
        path = scratch / f"video{suffix}"
        path.write_bytes(content)
        with open_source(path) as source:
            for number, frame in enumerate(source):
                _check(frame.image.ndim == 3, "a frame of another shape")
                if number == FRAMES:
                    break

    return Subject([clip for _, clip in clips], mutations.any_bytes, run)


def _onnx(scratch: Path, marker: str) -> Subject:
    import onnx

    from fuzz.onnx_graphs import mutate_graph
    from vitedge.converters.sources.onnx.models import load_onnx
    from vitedge.converters.sources.parse import OnnxFile

    folder = scratch / "onnx"
    folder.mkdir()
    path = folder / "model.onnx"
    (folder / "config.json").write_bytes(seeds.PREPROCESSING)

    def run(content: bytes) -> None:
        path.write_bytes(content)
        model = load_onnx(OnnxFile(path), labels=None)
        onnx.checker.check_model(model.graph)

    return Subject([seeds.graph().SerializeToString()], mutate_graph(marker), run)


def _program(scratch: Path, marker: str) -> Subject:
    """Run what the sandboxed child runs, here and without the sandbox: no code runs because of the checks alone."""
    from vitedge.converters.sources.torch_export.worker import serve

    path, folder = scratch / "program.pt2", scratch / "child"
    folder.mkdir()
    change = JsonMutator(marker)

    def within(random: Random, name: str, content: bytes) -> bytes:
        return change(random, content) if name.endswith(".json") else mutations.any_bytes(random, content)

    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            serve({"path": str(path), "name": path.name}, folder)
        except VitedgeError:
            raise
        except Exception as error:  # the sandbox makes one error of whatever a library raises
            raise CheckpointError(f"{path} cannot be read: {type(error).__name__}") from error

    return Subject([seeds.program_file()], ZipMutator(within), run)


PLACES = (
    MANIFEST,
    GOLDEN,
    OPENVINO_XML,
    OPENVINO_BIN,
    MODEL_ONNX,
    "image.png",
    "video.mp4",
    "labels",
    "list.txt",
    "config",
)
KINDS = ("fifo", "zero", "full", "folder", "sparse", "loop", "dangling", "socket", "empty", "links")


def _places(scratch: Path, marker: str) -> Subject:
    """What stands in the place of a file; the content of a case is ``PLACE KIND``."""
    made = Bundles(scratch)

    def run(content: bytes) -> None:
        place, kind = content.decode().split()
        folder = scratch / "places"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made.good, folder)
        if kind != "none":
            (folder / place).unlink(missing_ok=True)
            put(folder / place, kind)
        _use(folder, place if kind != "none" else MANIFEST)

    def choose(random: Random, _: bytes) -> bytes:
        return f"{random.choice(PLACES)} {random.choice(KINDS)}".encode()

    return Subject([b"empty.file none"], choose, run)


def put(path: Path, kind: str) -> None:
    """Make something that is no usual file."""
    makers: Mapping[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "full": lambda path: path.symlink_to("/dev/full"),
        "folder": Path.mkdir,
        "sparse": _put_sparse,
        "loop": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nothing"),
        "socket": _put_socket,
        "empty": Path.touch,
        "links": _put_links,
    }
    makers[kind](path)


def _put_sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(100 << 30)


def _put_socket(path: Path) -> None:
    short = Path(tempfile.mkdtemp(prefix="fuzz-")) / "s"  # a socket's path has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short))
    shutil.move(short, path)
    short.parent.rmdir()


def _put_links(path: Path) -> None:
    """A folder of which there are 4 million paths."""
    path.mkdir()
    for level in range(22):
        (path / f"link{level}").symlink_to(path, target_is_directory=True)


def _use(folder: Path, place: str) -> None:
    import vitedge
    from vitedge.calib.data.open import open_dataset
    from vitedge.converters.sources.labels import read_labels
    from vitedge.converters.sources.timm.config import read_config
    from vitedge.runtime.sources.open import open_source

    path = folder / place
    if place in ("image.png", "video.mp4"):
        with contextlib.suppress(VitedgeError):
            open_dataset(folder)
        with open_source(path) as source:
            next(iter(source))
    elif place == "labels":
        read_labels(path)
    elif place == "list.txt":
        open_dataset(path)
    elif place == "config":
        read_config(path)
    else:
        inspected(folder)
        vitedge.load(folder).close()


def _json(marker: str, seed: bytes) -> tuple[Sequence[bytes], Mutation]:
    return [seed], JsonMutator(marker)


def _npz(marker: str, seed: bytes) -> tuple[Sequence[bytes], Mutation]:
    return [seed], ZipMutator(mutations.npy)


def _xml(marker: str, seed: bytes) -> tuple[Sequence[bytes], Mutation]:
    return [seed], mutations.xml(marker)


def _bytes(marker: str, seed: bytes) -> tuple[Sequence[bytes], Mutation]:
    return [seed], mutations.any_bytes


def _bundle_graph(marker: str, seed: bytes) -> tuple[Sequence[bytes], Mutation]:
    from fuzz.onnx_graphs import mutate_graph

    return [seed], mutate_graph(marker)


SUBJECTS: Mapping[str, Callable[[Path, str], Subject]] = {
    "manifest.json": _of_bundle(MANIFEST, _json),
    "golden.npz": _of_bundle(GOLDEN, _npz),
    "IR, XML": _of_bundle(OPENVINO_XML, _xml),
    "IR, weights": _of_bundle(OPENVINO_BIN, _bytes),
    "ONNX in a bundle": _of_bundle(MODEL_ONNX, _bundle_graph),
    "ONNX": _onnx,
    "safetensors": _safetensors,
    "PyTorch checkpoint": _torch_checkpoint,
    ".pt2": _program,
    "timm config.json": _timm_config,
    "Transformers config.json": _transformers("config.json"),
    "preprocessor_config.json": _transformers("preprocessor_config.json"),
    "--preprocessing": _given_preprocessing,
    "labels": _labels,
    "images": _images,
    "videos": _videos,
    "what is no file": _places,
}
