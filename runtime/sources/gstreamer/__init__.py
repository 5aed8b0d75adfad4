"""Pipelines of GStreamer and cameras on a ribbon cable, read from a child process.

``vitedge.runtime.sources.open`` imports it. Start with ``source``; ``process`` runs the child, ``csi`` writes the
pipeline of a CSI camera, ``errors`` reads what the child says.
"""
