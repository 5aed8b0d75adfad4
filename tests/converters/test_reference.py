from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import Compose, Normalize, ToTensor  # type: ignore[import-untyped]

from vitedge.converters.reference import graph_logits, module_logits, normalized
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import ConversionError
from vitedge.metrics import sqnr_db


def test_normalization_is_that_of_torchvision(small_model: TorchModel, frames: NDArray[np.uint8]) -> None:
    preprocessing = small_model.card.preprocessing
    transform = Compose([ToTensor(), Normalize(preprocessing.mean, preprocessing.std)])
    expected = np.stack([transform(frame).numpy() for frame in frames])
    np.testing.assert_allclose(normalized(frames, preprocessing), expected, rtol=1e-6, atol=1e-6)


def test_graph_and_module_agree(
    small_model: TorchModel, small_export: onnx.ModelProto, frames: NDArray[np.uint8]
) -> None:
    preprocessing = small_model.card.preprocessing
    source = module_logits(small_model.module, frames, preprocessing)
    graph = graph_logits(small_export, frames, preprocessing)
    assert source.shape == graph.shape == (8, 5)
    assert source.dtype == graph.dtype == np.float32
    assert sqnr_db(source, graph) > 100


def test_pytorch_keeps_its_threads_even_where_the_model_fails(
    small_model: TorchModel, frames: NDArray[np.uint8]
) -> None:
    threads, used = torch.get_num_threads(), list[int]()

    class Failing(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            used.append(torch.get_num_threads())
            raise RuntimeError(f"no forward for {pixels.shape}")

    with pytest.raises(RuntimeError, match="no forward"):
        module_logits(Failing(), frames, small_model.card.preprocessing)
    assert used == [1]
    assert torch.get_num_threads() == threads


def test_integer_kernels_are_not_used(small_model: TorchModel) -> None:
    """Sums of u8 x s8 products that saturate in 16 bits: 255·127 + 255·127 = 64770."""
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        saturating (float[1,3,1,2] pixels) => (float[1,1] logits)
        <float one = {1.0}, uint8 zero_u8 = {0}, int8 zero_s8 = {0}, int64[2] flat = {1, 6}>
        {
            images = Reshape(pixels, flat)
            q = QuantizeLinear(images, one, zero_u8)
            dq = DequantizeLinear(q, one, zero_u8)
            w = Constant<value = int8[6,1] {127, 127, 127, 127, 127, 127}>()
            dw = DequantizeLinear(w, one, zero_s8)
            logits = MatMul(dq, dw)
        }
        """
    )
    preprocessing = small_model.card.preprocessing
    white = np.full((1, 1, 2, 3), 255, np.uint8)
    pixels = normalized(white, preprocessing)
    expected = 127 * np.clip(np.rint(pixels), 0, 255).sum()
    assert graph_logits(graph, white, preprocessing) == pytest.approx(expected)


def test_a_graph_that_cannot_run(small_model: TorchModel, frames: NDArray[np.uint8]) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1,3,2,2] x) => (float[1,3] y) {y = NoSuchOperator(x)}'
    )
    with pytest.raises(ConversionError, match="ONNX Runtime cannot run the graph"):
        graph_logits(graph, frames, small_model.card.preprocessing)
