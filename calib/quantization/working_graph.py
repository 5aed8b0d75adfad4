"""The graph while it is being quantized: its nodes keep their places, its constants change.

A layer's weights and bias are read and set here as a matrix ``(out, in)`` and a vector ``(out,)``, whatever the
operator lays them out like; new values go to constants of the layer's own, so that other readers of the old ones
keep them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.placement import Layer, weighted_layers
from vitedge.errors import ConversionError
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx

PURPOSE = "quantizing to int8"
THREADS = min(8, os.cpu_count() or 1)
"""As many images are held at once, whatever their number."""

Values = dict[str, NDArray[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")
Message = TypeVar("Message", "onnx.ModelProto", "onnx.GraphProto")


@dataclass
class WorkingGraph:
    """A graph taken apart.

    Attributes:
        nodes: in topological order.
        constants: the initializers by name; those that nothing reads any more are left out of ``assembled``.
        model: all the rest: inputs, outputs, opset.
    """

    nodes: list[onnx.NodeProto]
    constants: Values
    model: onnx.ModelProto

    @classmethod
    def of(cls, graph: onnx.ModelProto) -> WorkingGraph:
        """A copy of a graph, in which every layer with weights has a bias, if only one of zeros.

        Raises:
            MissingExtraError: ONNX is not installed.
        """
        working = cls.as_it_is(graph)
        working._add_biases(weighted_layers(graph))
        return working

    @classmethod
    def as_it_is(cls, graph: onnx.ModelProto) -> WorkingGraph:
        """A copy of a graph.

        Raises:
            MissingExtraError: ONNX is not installed.
        """
        onnx = require("onnx", extra="convert", purpose=PURPOSE)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        nodes = type(graph.graph)(node=graph.graph.node).node
        rest = _without(graph.graph, "node", "initializer", "value_info")
        return cls(list(nodes), constants, _without(graph, "graph", graph=rest))

    def layers(self) -> tuple[Layer, ...]:
        """All layers with weights."""
        return weighted_layers(self.assembled(self.nodes))

    def assembled(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, NDArray[Any]] | None = None,
        outputs: Iterable[str] = (),
    ) -> onnx.ModelProto:
        """A graph of some nodes, with the constants that they read.

        Args:
            nodes: in topological order.
            inputs: names and examples of what they read; the inputs of the whole graph unless given.
            outputs: names of what they make; with ``inputs`` only.
        """
        onnx = require("onnx", extra="convert", purpose=PURPOSE)
        model = type(self.model)()
        model.CopyFrom(self.model)
        model.graph.node.extend(nodes)
        for name in dict.fromkeys(name for node in nodes for name in node.input if name in self.constants):
            model.graph.initializer.append(onnx.numpy_helper.from_array(self.constants[name], name))
        if inputs is not None:
            del model.graph.input[:], model.graph.output[:]
            for name, example in inputs.items():
                kind = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, example.shape))
            for name in outputs:
                model.graph.output.add(name=name)
        return model

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant; its name, with underscores behind it where that is taken."""
        while name in self.constants:
            name += "_"
        self.constants[name] = values
        return name

    def weight(self, layer: Layer) -> NDArray[np.float64]:
        """``(out, in)``; of a convolution ``(out, in / groups · kernel)``."""
        values = np.moveaxis(self.constants[self.nodes[layer.position].input[1]], layer.out_axis, 0)
        return values.reshape(len(values), -1).astype(np.float64)

    def weight_layout(self, layer: Layer, matrix: NDArray[Any]) -> NDArray[Any]:
        """Such a matrix as the operator takes it."""
        shape = self.constants[self.nodes[layer.position].input[1]].shape
        if layer.operator == "Conv":
            return matrix.reshape(shape)
        return np.ascontiguousarray(np.moveaxis(matrix, 0, layer.out_axis))

    def set_weight(self, layer: Layer, matrix: NDArray[np.float64]) -> None:
        """Replace the weights."""
        values = self.weight_layout(layer, matrix).astype(np.float32)
        self._replace(self.nodes[layer.position], 1, f"{layer.output}_weight", values)

    def weight_by_input(self, layer: Layer) -> NDArray[np.float64]:
        """What each input channel is multiplied with, ``(out / groups · kernel, in)``."""
        grouped = self._grouped(layer)
        return np.asarray(grouped.transpose(1, 3, 0, 2).reshape(-1, len(grouped) * grouped.shape[2]))

    def scale_input(self, layer: Layer, scale: NDArray[np.float64]) -> None:
        """Multiply the weights of each input channel; ``scale`` is ``(in,)``."""
        scaled = self._grouped(layer) * scale.reshape(layer.groups, 1, -1, 1)
        self.set_weight(layer, scaled.reshape(self.weight(layer).shape))

    def _grouped(self, layer: Layer) -> NDArray[np.float64]:
        """Weights ``(groups, out / groups, in / groups, kernel)``."""
        weight = self.weight(layer)
        width = self.constants[self.nodes[layer.position].input[1]].shape[1 - layer.out_axis]
        return weight.reshape(layer.groups, len(weight) // layer.groups, width, -1)

    def bias(self, layer: Layer) -> NDArray[np.float64]:
        """``(out,)``."""
        node, index = self._bias_input(layer)
        return self.constants[node.input[index]].astype(np.float64)

    def set_bias(self, layer: Layer, bias: NDArray[np.float64]) -> None:
        """Replace the bias."""
        node, index = self._bias_input(layer)
        self._replace(node, index, f"{layer.output}_bias", bias.astype(np.float32))

    def _replace(self, node: onnx.NodeProto, index: int, name: str, values: NDArray[Any]) -> None:
        """Have a node read another constant; one that nothing reads any more goes: weights are what memory holds."""
        old = node.input[index]
        node.input[index] = self.add(name, values)
        if not any(old in each.input for each in self.nodes):
            del self.constants[old]

    def _bias_input(self, layer: Layer) -> tuple[onnx.NodeProto, int]:
        if layer.add < 0:
            return self.nodes[layer.position], 2
        add = self.nodes[layer.add]
        return add, next(index for index, name in enumerate(add.input) if name in self.constants)

    def _add_biases(self, layers: Sequence[Layer]) -> None:
        helper = require("onnx", extra="convert", purpose=PURPOSE).helper
        for layer in reversed([each for each in layers if not each.bias]):
            node, channels = self.nodes[layer.position], self.constants[layer.weight].shape[layer.out_axis]
            zeros = self.add(f"{layer.output}_bias", np.zeros(channels, np.float32))
            if layer.operator != "MatMul":
                del node.input[2:]
                node.input.append(zeros)
                continue
            product = f"{layer.output}_unbiased"
            node.output[0] = product
            add = helper.make_node("Add", [product, zeros], [layer.output], f"{layer.name}_bias")
            self.nodes.insert(layer.position + 1, add)


def _without(message: Message, *left: str, **given: Any) -> Message:
    """A copy of all but some fields; to delete them from a copy frees nothing before the whole message goes."""
    kept = {field.name: value for field, value in message.ListFields() if field.name not in left}
    return type(message)(**kept, **given)


def beside(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results for all items, in their order, computed in threads: a few more than those taken, never all."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="vitedge-calib") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > THREADS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for each in pending:
                each.cancel()


def runner(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on the CPU, of a single thread: images run ``beside`` one another, which is faster.

    Q/DQ is computed as it is written: the integer kernels of ONNX Runtime saturate on CPUs without VNNI, and
    then differ from machine to machine.

    Raises:
        ConversionError: ONNX Runtime refuses the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = require("onnxruntime", extra="convert", purpose=PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other base
        raise ConversionError(f"ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}") from error
