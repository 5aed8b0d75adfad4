"""What stands between vitedge and files that strangers made.

Start with ``limits``, which states every bound. ``files`` reads files and JSON within them, ``archives``
zip archives. ``escape`` writes their text into other languages. ``child`` starts interpreters that see no module of the
current folder. ``sandbox`` runs what must be run of a stranger's model in a child without network. ``telemetry`` turns
off what libraries report. Every room may import this one; it imports ``vitedge.errors`` alone.
"""
