"""The columns of the tables that a patch job makes besides patching: one file per checkpoint and table.

Writers and readers both take the columns from here. Imports neither torch nor pandas.
"""

from __future__ import annotations

import pyarrow as pa

BY_PROMPT = ("by_prompt", pa.list_(pa.float32()))
"""The values that the row's value is the mean of, in the order of the patch job's prompts; missing where a prompt has
none."""

TABLES: dict[str, pa.Schema] = {
    "looks": pa.schema(
        [
            ("side", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("query", pa.string()),
            ("key", pa.string()),
            ("attention", pa.float64()),
            ("value_weighted", pa.float64()),
            ("uniform", pa.float64()),
            ("n", pa.int64()),
            BY_PROMPT,
            ("uniform_by_prompt", pa.list_(pa.float32())),
        ]
    ),
    "scores": pa.schema(
        [
            ("measure", pa.string()),
            ("of", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("source_layer", pa.int64()),
            ("source_head", pa.int64()),
            ("value", pa.float64()),
            ("null", pa.float64()),
            ("n", pa.int64()),
            BY_PROMPT,
        ]
    ),
    "patterns": pa.schema(
        [
            ("prompt", pa.int64()),
            ("side", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("pattern", pa.list_(pa.float16())),
        ]
    ),
    "cross": pa.schema(
        [
            ("into_step", pa.int64()),
            ("source_step", pa.int64()),
            ("kind", pa.string()),
            ("component", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("ld_into", pa.float64()),
            ("ld_from", pa.float64()),
            ("ld_mixed", pa.float64()),
            ("standard_error", pa.float64()),
            ("n", pa.int64()),
            BY_PROMPT,
        ]
    ),
    "circuits": pa.schema(
        [
            ("kind", pa.string()),
            ("set", pa.string()),
            ("order", pa.string()),
            ("size", pa.float64()),
            ("nodes", pa.int64()),
            ("component", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("removed", pa.string()),
            ("members", pa.string()),
            ("source_step", pa.int64()),
            ("value", pa.float64()),
            ("n", pa.int64()),
            ("percentile", pa.float64()),
            ("closer", pa.float64()),
            ("null_median", pa.float64()),
            ("null_high", pa.float64()),
            ("null_sets", pa.int64()),
            BY_PROMPT,
        ]
    ),
    "edges": pa.schema(
        [
            ("kind", pa.string()),
            ("source", pa.string()),
            ("source_layer", pa.int64()),
            ("source_head", pa.int64()),
            ("input", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            ("chosen", pa.string()),
            ("order", pa.string()),
            ("size", pa.float64()),
            ("edges", pa.int64()),
            ("patched", pa.float64()),
            ("approximate", pa.float64()),
            ("clean", pa.float64()),
            ("corrupted", pa.float64()),
            ("n", pa.int64()),
            BY_PROMPT,
        ]
    ),
}
"""By table name.

In `cross`, `by_prompt` lists the values that `ld_mixed` is the mean of; those of `ld_into` and `ld_from` are in the
rows of kind `own`, one for each checkpoint, in which both steps are the same. `pattern` is the lower triangle, row by
row, over a prompt's own tokens.
"""
