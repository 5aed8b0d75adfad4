"""Sensitivity: the cost of each int8 layer, measured with an FP32 graph and the Q/DQ graph that was made from it.

The precision search, the reports and the command line import it. Start with ``sensitivity``; ``result`` holds the
measured numbers, and ``paired_graphs`` exchanges layers between the two graphs.
"""
