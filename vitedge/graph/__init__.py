"""The ONNX graph library, on onnx_ir: read, change and run graphs.

``vitedge.calib`` and ``vitedge.converters`` use it; the runtime must not import it. Start with ``layers``, the layers
with weights; ``channels`` follows their channels, ``bounds`` the regions that operators read, and ``session`` runs
graphs, and parts of them, in ONNX Runtime.
"""

from vitedge.extras import require

require("onnx", extra="convert", purpose="reading ONNX graphs")
