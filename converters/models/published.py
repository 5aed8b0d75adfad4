"""The weights in a published checkpoint, and loading them into a network that they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from vitedge.converters.models.layers import ImageClassifier
from vitedge.errors import CheckpointError

# The authors of CSWin evaluate the averaged weights where a checkpoint holds both.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PARALLEL_PREFIX = "module."
_SHOWN = 3


def published_state(checkpoint: object) -> dict[str, Tensor]:
    """The weights by parameter name, out of a checkpoint as authors and training scripts save it.

    Args:
        checkpoint: what ``torch.load(path, weights_only=True)`` or safetensors gave: the weights themselves, or a
            dictionary that holds them under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, looked for
            in this order. A ``module.`` before the names, which parallel training leaves, is taken off.

    Raises:
        CheckpointError: no weights in it.
    """
    weights = _unwrapped(checkpoint)
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        found = f"also holds {_listed(others)}, which are no tensors" if weights else "holds no weights"
        raise CheckpointError(
            f"the checkpoint {found}",
            expected=f"tensors by parameter name, or a dictionary with {' or '.join(_WRAPPERS)}",
        )
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in weights.items()}


def load_published(network: ImageClassifier, checkpoint: object) -> None:
    """Load a published checkpoint into a network; weights that depend on the input size are interpolated.

    Args:
        network: from ``vitedge.converters.models.build``. Left as it was if the checkpoint does not fit.
        checkpoint: see ``published_state``.

    Raises:
        CheckpointError: no weights in it, or weights of another network or of another number of classes.
    """
    state = network.fitted(published_state(checkpoint))
    own = network.state_dict()
    _check_names(network, own, state)
    _check_shapes(network, own, state)
    network.load_state_dict(state)


def _unwrapped(checkpoint: object) -> Mapping[str, object]:
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"the checkpoint is of type {type(checkpoint).__name__}", expected="a dictionary of weights"
        )
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            return checkpoint[wrapper]  # type: ignore[no-any-return]
    return checkpoint


def _check_names(network: ImageClassifier, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        problems = [f"{len(missing)} weights are missing ({_listed(missing)})"] if missing else []
        problems += [f"{len(unknown)} are unknown ({_listed(unknown)})"] if unknown else []
        raise CheckpointError(
            f"the checkpoint does not fit {network.name}: {', '.join(problems)}",
            expected=f"the {len(own)} weights of {network.name}",
            fix="name the variant that the checkpoint was saved from",
        )


def _check_shapes(network: ImageClassifier, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        pairs = [f"{name}: {tuple(state[name].shape)} instead of {tuple(own[name].shape)}" for name in wrong]
        raise CheckpointError(
            f"the checkpoint does not fit {network.name}: {len(wrong)} weights have another shape ({_listed(pairs)})",
            fix=_shape_fix(wrong, state),
        )


def _shape_fix(wrong: list[str], state: Mapping[str, Tensor]) -> str:
    if all(name.startswith("head.") for name in wrong):
        return f"build the network with num_classes={state['head.bias'].shape[0]}"
    return "name the variant that the checkpoint was saved from"


def _listed(names: Iterable[str]) -> str:
    """The first few names, and a sign that there are more."""
    known = list(names)
    return ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
