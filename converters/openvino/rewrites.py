"""Exact rewrites that pay with OpenVINO alone, in order; they follow the common ones."""

from __future__ import annotations

from vitedge.converters.rewrites import (
    attention_rank,
    cubic_resize,
    factorized_attention,
    fuse_groupnorm,
    gather_pixels,
    hard_sigmoid,
    one_mask,
    padding_tokens,
    rotary_embedding,
    split_convolution,
    talking_heads,
    token_rows,
    whole_pixels,
)
from vitedge.converters.rewrites.apply import TIDY, Rewrite

REWRITES = (
    Rewrite("padding tokens", padding_tokens.check, padding_tokens.rewrite),
    Rewrite("fuse GroupNorm", fuse_groupnorm.check, fuse_groupnorm.rewrite, requires=(TIDY,)),
    Rewrite("split convolutions", split_convolution.check, split_convolution.rewrite, requires=(TIDY,)),
    Rewrite("hard sigmoid", hard_sigmoid.check, hard_sigmoid.rewrite),
    Rewrite("cubic Resize", cubic_resize.check, cubic_resize.rewrite, requires=(TIDY,)),
    Rewrite("gather pixels", gather_pixels.check, gather_pixels.rewrite, requires=(TIDY,)),
    Rewrite("one mask", one_mask.check, one_mask.rewrite, requires=(TIDY,)),
    Rewrite("attention in four dimensions", attention_rank.check, attention_rank.rewrite, requires=(TIDY,)),
    Rewrite("factorized attention", factorized_attention.check, factorized_attention.rewrite, requires=(TIDY,)),
    Rewrite("rotary embedding", rotary_embedding.check, rotary_embedding.rewrite, requires=(TIDY,)),
    Rewrite("talking heads", talking_heads.check, talking_heads.rewrite, requires=(TIDY,)),
    Rewrite("rows of tokens", token_rows.check, token_rows.rewrite, requires=(TIDY,)),
    Rewrite("whole pixels", whole_pixels.check, whole_pixels.rewrite, requires=(TIDY,)),
)
