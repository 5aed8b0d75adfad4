"""The runtime: what a device needs to classify images and streams with a bundle. It needs numpy and one engine library.

Everything above the vocabulary may import it. Start with ``load``, which opens a bundle as a ``classifier``. A frame
goes through ``sources``, ``stream``, ``preprocess``, ``engines``, ``postprocess`` and ``outputs``; ``bench`` measures,
``system`` describes the machine.
"""

if not __name__.startswith("vitedge."):
    raise ImportError("import vitedge.runtime: this folder is installed as a part of the vitedge package")

__all__: list[str] = []
"""The public names are in ``vitedge`` itself; the modules of this package are internal."""


def __dir__() -> list[str]:
    return list(__all__)
