from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.calib.data.dataset import CalibrationImages
from vitedge.calib.quantization import row_weights
from vitedge.converters.backends import BackendInputs
from vitedge.converters.openvino import backend
from vitedge.converters.openvino.backend import check_operators, model_info, write_ir
from vitedge.converters.precision import half_weights
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CalibrationError, ConversionError
from vitedge.metrics import sqnr_db
from vitedge.progress import Silent


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def written(
    request: pytest.FixtureRequest,
    small_graph: Rewritten,
    small_model: TorchModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Precision]:
    folder, precision = tmp_path_factory.mktemp("ir"), request.param
    onnx.save(half_weights(small_graph.graph) if precision == "fp16" else small_graph.graph, folder / "model.onnx")
    write_ir(folder / "model.onnx", folder / "openvino" / "model.xml", small_model.card, precision)
    return folder, precision


def test_the_contract(written: tuple[Path, Precision]) -> None:
    model = openvino.Core().read_model(written[0] / "openvino" / "model.xml")
    (frame,), (logits,) = model.inputs, model.outputs
    assert frame.get_names() == {"frame"}
    assert logits.get_names() == {"logits"}
    assert frame.get_element_type() == openvino.Type.u8
    assert list(frame.shape) == [1, 32, 32, 3]
    assert openvino.layout_helpers.get_layout(frame) == openvino.Layout("NHWC")


def test_it_computes_what_the_graph_computes(
    written: tuple[Path, Precision], small_graph: Rewritten, frames: NDArray[np.uint8]
) -> None:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(written[0] / "openvino" / "model.xml", "CPU", hint)
    logits = np.concatenate([compiled(frame[None])[0] for frame in frames])
    assert sqnr_db(small_graph.logits, logits) > (100 if written[1] == "fp32" else 50)


def test_weights_of_fp16_take_half_the_room(written: tuple[Path, Precision]) -> None:
    floats = sum(tensor.size for tensor in _parameters(written[0]))
    size = (written[0] / "openvino" / "model.bin").stat().st_size
    assert size == pytest.approx(floats * (2 if written[1] == "fp16" else 4), rel=0.1)


def _parameters(folder: Path) -> list[NDArray[np.generic]]:
    tensors = [onnx.numpy_helper.to_array(each) for each in onnx.load(folder / "model.onnx").graph.initializer]
    return [tensor for tensor in tensors if tensor.dtype.kind == "f"]


def test_no_path_of_this_machine_is_in_it(written: tuple[Path, Precision]) -> None:
    assert str(written[0]) not in (written[0] / "openvino" / "model.xml").read_text(encoding="utf-8")


def test_equal_graphs_give_equal_files(
    written: tuple[Path, Precision], small_model: TorchModel, tmp_path: Path
) -> None:
    write_ir(written[0] / "model.onnx", tmp_path / "again" / "model.xml", small_model.card, written[1])
    for name in ("model.xml", "model.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (written[0] / "openvino" / name).read_bytes()


def card(labels: tuple[str, ...] = ("red fox", "wolf"), **preprocessing: object) -> ModelCard:
    whole: dict[str, object] = {"input_size": (32, 32), "resize_size": (36, 36), **preprocessing}
    return ModelCard("fox", "here", "onnx", labels, Preprocessing(**whole), "", pretrained=True)  # type: ignore[arg-type]


def test_model_info_speaks_the_language_of_model_api() -> None:
    assert model_info(card()) == {
        "model_type": "Classification",
        "labels": "red_fox wolf",
        "reverse_input_channels": "YES",
        "resize_type": "crop",
        "interpolation_mode": "CUBIC",
        "pad_value": "0",
        "topk": "2",
    }


def test_every_label_is_one_word_of_model_info_without_control_characters() -> None:
    labels = model_info(card(labels=("red\x1b[2J fox", " \n", "wolf\udcff")))["labels"]
    assert labels == r"red\x1b[2J_fox 1 wolf\udcff"


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"resize_mode": "squash"}, "resize_type", "standard"),
        ({"resize_mode": "border"}, "resize_type", "fit_to_window_letterbox"),
        ({"input_size": (32, 48)}, "resize_type", "standard"),
        ({"interpolation": "bilinear"}, "interpolation_mode", "LINEAR"),
        ({"interpolation": "lanczos"}, "interpolation_mode", "LINEAR"),
        ({"interpolation": "nearest"}, "interpolation_mode", "NEAREST"),
        ({"channel_order": "BGR"}, "reverse_input_channels", "NO"),
    ],
)
def test_model_info_follows_the_preprocessing(changes: dict[str, object], key: str, value: str) -> None:
    assert model_info(card(**changes))[key] == value


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "border"])
def test_model_api_accepts_every_resize(
    written: tuple[Path, Precision], small_model: TorchModel, tmp_path: Path, resize_mode: str
) -> None:
    classification = pytest.importorskip("model_api.models", reason="pip install openvino-model-api")
    preprocessing = replace(small_model.card.preprocessing, resize_mode=resize_mode)
    write_ir(
        written[0] / "model.onnx",
        tmp_path / "ir" / "model.xml",
        replace(small_model.card, preprocessing=preprocessing),
        written[1],
    )
    model = classification.ClassificationModel.create_model(str(tmp_path / "ir" / "model.xml"), device="CPU")
    top = model(np.full((40, 60, 3), 127, np.uint8)).top_labels
    assert len(top) == 5
    assert sum(each.confidence for each in top) == pytest.approx(1, abs=1e-3)


def graph_of(body: str) -> onnx.ModelProto:
    """From ``x``, ``(1, 4, 8, 8)``, to ``y``; ``layer`` names the last node."""
    opsets = '"" : 20, "ai.onnx.ml" : 3'
    graph = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{opsets}]> g (float[1,4,8,8] x) => (float y) {{ {body} }}"
    )
    graph.graph.node[-1].name = "layer"
    return graph


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("y = Det(x)", "OpenVINO cannot convert the operator Det, layer 'layer'"),
        ("a = Det(x) b = Det(x) y = Add(a, b)", "OpenVINO cannot convert the operator Det, layer 'a' and 1 more"),
        (
            "f = Flatten(x) a = ai.onnx.ml.Scaler<scale = [2.0], offset = [0.0]>(f) d = Det(x) y = Add(a, d)",
            "the operator ai.onnx.ml.Scaler, layer 'a'; the operator Det, layer 'd'",
        ),
        ("y = GroupNormalization<num_groups = 2>(x)", "the operator GroupNormalization, layer 'layer'"),
        (
            """s = ReduceSum<keepdims = 0>(x) c = Cast<to = 9>(s)
            y = If<then_branch = t () => (float a) {a = Det(x)}, else_branch = e () => (float b) {b = Neg(x)}>(c)""",
            "OpenVINO cannot convert the graph: .*Det",
        ),
    ],
)
def test_operators_that_openvino_does_not_convert(body: str, problem: str) -> None:
    with pytest.raises(ConversionError, match=problem):
        check_operators(graph_of(body))


def test_a_graph_that_openvino_reads(small_graph: Rewritten) -> None:
    check_operators(small_graph.graph)


def test_a_graph_that_openvino_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ConversionError, match="OpenVINO cannot convert"):
        write_ir(tmp_path / "model.onnx", tmp_path / "ir" / "model.xml", card(), "fp32")


def test_a_file_that_cannot_be_written(written: tuple[Path, Precision], small_model: TorchModel) -> None:
    with pytest.raises(ConversionError, match="OpenVINO cannot convert"):
        write_ir(written[0] / "model.onnx", Path("/proc/model.xml"), small_model.card, "fp32")


@pytest.mark.parametrize(
    ("features", "warned"),
    [(("AVX2", "AVX-512"), True), (("AVX2", "AVX-VNNI"), False), (None, False)],
)
def test_a_processor_without_vnni_is_told_before_the_calibration(
    features: tuple[str, ...] | None, *, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Steps(Silent):
        def step(self, message: str) -> None:
            said.append(message)

    def calibrate(*_: object) -> None:
        raise CalibrationError(f"{len(said)} warnings before it began")

    monkeypatch.setattr(backend, "read_features", lambda: features)
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(backend, "quantized", calibrate)
    with pytest.raises(CalibrationError, match=f"{int(warned)} warnings"):
        backend.reduce(cast(BackendInputs, None), "int8", Steps())
    assert all(each.startswith("warning: this processor has no VNNI or AMX") for each in said)


@pytest.mark.parametrize("features", [None, ("AVX2", "AVX-VNNI")])
def test_the_fp16_engine_computes_the_graph(
    features: tuple[str, ...] | None, small_graph: Rewritten, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "read_features", lambda: features)
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    engine = backend.open_fp16_engine(small_graph.graph)
    assert engine is not None
    with closing(engine):
        engine.frame[...] = frames[0]
        logits = engine.run()
        assert engine.info.effective_precision == engine.info.rest_precision != "int8"
    assert 20 < sqnr_db(small_graph.logits[0], logits) < 150


def test_without_fast_int8_nothing_is_opened_to_compare_it_with(
    small_graph: Rewritten, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "read_features", lambda: ("AVX2",))
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    assert backend.open_fp16_engine(small_graph.graph) is None


def test_the_weights_that_int8_leaves_in_floating_point_take_half_the_room(
    small_graph: Rewritten, small_model: TorchModel, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    photos = CalibrationImages(frames, (), (), "")
    inputs = BackendInputs(small_graph.graph, small_model.card, frames, frames, photos)
    reduced = backend.reduce(inputs, "int8", Silent())
    onnx.save(reduced.graph, tmp_path / "model.onnx")
    matrices = [each for each in _parameters(tmp_path) if each.ndim >= 2]
    assert matrices
    assert {each.dtype for each in matrices} == {np.dtype(np.float16)}
    write_ir(tmp_path / "model.onnx", tmp_path / "ir" / "model.xml", small_model.card, "int8")
    stored = openvino.Core().read_model(tmp_path / "ir" / "model.xml").get_ordered_ops()
    constants = [each for each in stored if each.get_type_name() == "Constant"]
    full = [each for each in constants if each.get_element_type() == openvino.Type.f32 and len(each.shape) > 1]
    assert all(np.prod(each.shape) == max(each.shape) for each in full)  # scales and biases alone
    assert reduced.calibration is not None
    assert reduced.calibration.gap_db is not None


def test_large_rows_get_int8_weights_and_the_recipe_names_them(
    small_graph: Rewritten, small_model: TorchModel, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = BackendInputs(small_graph.graph, small_model.card, frames, frames, CalibrationImages(frames, (), (), ""))
    without, record = (reduced := backend.reduce(inputs, "int8", Silent())).graph, reduced.calibration
    monkeypatch.setattr(row_weights, "CACHED_WEIGHTS", 1)
    monkeypatch.setattr(row_weights, "LEAST_WEIGHTS", 0.0)
    monkeypatch.setattr(row_weights, "LARGEST_NOISE", 100.0)
    found = backend.reduce(inputs, "int8", Silent())
    assert record is not None
    assert found.calibration is not None
    assert "int8 weights alone" not in record.recipe
    assert found.calibration.recipe.startswith(f"{record.recipe}; int8 weights alone: ")
    names = found.calibration.recipe.rpartition(": ")[2].split(", ")
    added = _dequantized(found.graph) - _dequantized(without)
    assert len(added) == len(names)


def _dequantized(graph: onnx.ModelProto) -> set[str]:
    """Names of the int8 matrices."""
    return {each.name for each in graph.graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims[1:]}


@pytest.mark.parametrize(("photos", "places"), [(300, range(64, 300)), (79, range(79)), (9, range(9))])
def test_int8_is_compared_on_photos_that_the_quantizer_has_not_run_where_there_are_enough(
    photos: int, places: range
) -> None:
    frames = np.arange(photos, dtype=np.int64).reshape(-1, 1, 1, 1).astype(np.uint16).view(np.uint8)
    images = CalibrationImages(frames, (), (), "")
    compared = BackendInputs(onnx.ModelProto(), cast(ModelCard, None), frames[:64], frames[:8], images).compared
    found = compared.reshape(len(compared), -1).copy().view(np.uint16).ravel().tolist()
    assert found[0] == places[0]
    assert found[-1] == places[-1]
    assert len(set(found)) == min(16, photos)
