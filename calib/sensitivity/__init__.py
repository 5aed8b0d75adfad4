"""The cost of each int8 layer, measured with an FP32 graph and its Q/DQ twin.

The precision search and the command line import it. Start with ``sensitivity``; ``paired_graphs`` exchanges layers
between the two graphs.
"""
