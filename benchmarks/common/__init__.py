"""Helpers that the benchmarks share; no benchmark imports another one.

``timing`` times calls, ``rates`` streams, ``own_python`` what vitedge adds to them; ``children`` runs a model in its
own process, ``stream_child`` a stream, ``runtime_page`` shows its figures; ``families`` lists the models of the
matrices, ``baselines`` holds the quantizers of others, ``matrix`` compares each model with them; ``untrained`` makes
networks for latency, ``pages`` writes into pages.
"""
