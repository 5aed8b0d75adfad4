"""Protection against files from untrusted sources.

Start with ``limits``, which states every limit. ``files``, ``archives``, ``npz`` and ``onnx_scan`` read files, JSON,
zip archives, arrays and ONNX files within these limits. ``escape`` escapes text for terminals, HTML, JSON, shells and
configuration files. ``child`` starts interpreters that import no module from the current folder. ``sandbox`` reads an
untrusted model in a child process without network (``confinement``, ``landlock``, ``seccomp``). ``telemetry`` turns off
usage reports of libraries. Every room may import this one; it imports ``vitedge.errors`` alone.
"""
