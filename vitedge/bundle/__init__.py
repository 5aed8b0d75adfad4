"""The Bundle, and the nouns that describe it: manifest, model card, preprocessing, targets, signatures.

Every room may import these modules. They import numpy, the standard library, ``vitedge.safety`` and the modules that
lie beside the rooms, such as ``errors`` and ``files``. Start with ``bundle``, then read ``manifest``, whose records are
in ``precision_records``, ``accuracy_records`` and ``verification_records``.
"""
