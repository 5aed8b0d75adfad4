"""Image files as a source and as data: found in a folder, checked, decoded with Pillow.

The sources, the classifier and ``vitedge.calib.data`` import it. Start with ``files``, the source; ``reading`` finds
and decodes files, ``bounds`` checks what they declare, ``pillow`` turns Pillow images into pixels.
"""
