"""The matrix of models: ``measurement`` fills ``rows``, beside ``peers``; ``page`` and ``packaged`` show them.

``comparison`` is what a row knows of the peers, ``peer_page`` and ``picture`` are their part of the page.
"""
