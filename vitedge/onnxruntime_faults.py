"""What ONNX Runtime gets wrong, wherever a session of it is opened."""

from __future__ import annotations

WRONG_OPTIMIZERS = ("ReluQuantRewrite",)
"""Optimizers that change results: this one drops a Relu before a float8 quantizer, which clips no negative values."""
