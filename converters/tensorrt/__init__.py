"""Graphs for TensorRT: strongly typed, so that the precision of every value is written in the graph.

    FP32 graph, or Q/DQ graph of calib ─▶ ranges ─▶ placement ─▶ typed ─▶ strongly typed graph
                                          peaks     what stays   casts,      │
                                                    in float32   constants   └▶ rounded: the same in ONNX Runtime

TensorRT 11 accepts no other form, and TensorRT 10 builds it as well.
"""
