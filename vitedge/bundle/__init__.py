"""The Bundle, and the nouns that describe it: manifest, model card, preprocessing, targets, signatures.

Every room may import these modules; they import numpy and the standard library only. Start with ``bundle``, then read
``manifest``.
"""
