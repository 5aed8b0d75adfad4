"""Images to ranges to a Q/DQ graph; accuracy of any engine."""

if not __name__.startswith("vitedge."):
    raise ImportError("import vitedge.calib: this folder is installed as a part of the vitedge package")
