"""On the device: frames in, predictions out, latency measured."""

if not __name__.startswith("vitedge."):
    raise ImportError("import vitedge.runtime: this folder is installed as a part of the vitedge package")
