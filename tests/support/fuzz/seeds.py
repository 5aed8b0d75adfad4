"""Good files of each format, small, and made anew in every run."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import bundles
import checkpoints
import clips
import numpy as np
import onnx
import torch
import transformers_checkpoints
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

PREPROCESSING = json.dumps(
    {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bilinear"}
).encode()
PROCESSOR = json.dumps(
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
).encode()
LABELS = "red\ngreen\nblå\n".encode()
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
VIDEO_SUFFIXES = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "MJPG"}


def bundle(folder: Path) -> Path:
    """A small fp32 bundle."""
    return bundles.make_bundle(folder).path


def images() -> list[bytes]:
    """One image of each format that vitedge reads, and one of some that it does not."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    animation = _written(picture, "GIF", save_all=True, append_images=[picture.rotate(90)])
    shades = _written(Image.fromarray(pixels[..., 0].astype(np.uint16) * 200), "PNG")
    return [*(_written(picture, kind) for kind in (*IMAGE_FORMATS, "EPS", "PDF")), animation, shades]


def _written(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def videos(folder: Path) -> list[tuple[str, bytes]]:
    """Short clips and what is no clip, each with a suffix."""
    folder.mkdir()
    found = []
    for suffix, codec in VIDEO_SUFFIXES.items():
        path = clips.write_clip(folder / f"clip{suffix}", 6, codec=codec)
        found.append((suffix, path.read_bytes()))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    concat = b"ffconcat version 1.0\nfile /etc/passwd\n"
    session = (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    return [*found, (".mp4", playlist), (".mp4", concat), (".mp4", session)]


def timm_config() -> bytes:
    """``config.json`` in timm's layout."""
    return json.dumps(checkpoints.config()).encode()


def timm_folder(folder: Path) -> Path:
    """A checkpoint in timm's layout."""
    return checkpoints.write_checkpoint(folder)


def transformers_folder(folder: Path) -> Path:
    """A checkpoint in Transformers' layout."""
    return transformers_checkpoints.write_checkpoint(folder, "vit")


def torch_file(tensors: dict[str, torch.Tensor]) -> bytes:
    """What ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def safetensors_file(tensors: dict[str, torch.Tensor]) -> bytes:
    """What safetensors writes, with metadata."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, tensor in tensors.items():
        content = tensor.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(content)],
        }
        body += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def program_file() -> bytes:
    """What ``torch.export.save`` writes of a small classifier."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 8, 8, 8)
            self.norm = torch.nn.LayerNorm(8)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = self.norm(self.patches(image).flatten(2).transpose(1, 2))
            return self.head(torch.nn.functional.gelu(tokens).mean(1))

    torch.manual_seed(0)
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Small().eval(), (torch.zeros(1, 3, 32, 32),)), stream)
    return stream.getvalue()


def graph() -> onnx.ModelProto:
    """A float32 classifier of normalized 32×32 images, with a function and a reshape whose shape is a tensor."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((8, 3, 8, 8)).astype(np.float32),
        "matrix": rng.standard_normal((8, 3)).astype(np.float32),
        "shape": np.array([1, 8], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], strides=[8, 8], name="patches"),
        helper.make_node("Twice", ["maps"], ["doubled"], domain="local", name="twice"),
        helper.make_node("GlobalAveragePool", ["doubled"], ["pooled"], name="pool"),
        helper.make_node("Reshape", ["pooled", "shape"], ["features"], name="flat"),
        helper.make_node("MatMul", ["features", "matrix"], ["logits"], name="head"),
    ]
    twice = helper.make_function(
        "local", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    proto = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_model(proto, opset_imports=opsets, functions=[twice], ir_version=9)
