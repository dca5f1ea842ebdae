"""Embeddings of pictures that were made before, in a folder: nothing is embedded twice, and a killed run goes on.

A row is known by the encoder (weights, precision), the crops (recipe), the encoded image's digest and the box. The rows
of one encoder and recipe are in parts, files that appear whole and never change; two runs may write at a time. A cache
may be deleted whenever none is running. Shapes: N rows, D width.
"""

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovd.data.classification.pictures import Box
from ovd.stores.atomic import write_bytes
from ovd.stores.manifest import fingerprint_json

Key = bytes
"""Of a picture; see :func:`key_of`."""


def key_of(digest: str, box: Box | None) -> Key:
    """The key of an image's digest and a box in it, 32 bytes."""
    return bytes.fromhex(fingerprint_json([digest, box]).removeprefix("sha256:"))


class EmbeddingCache:
    """The rows of one encoder and recipe below a cache folder.

    Args:
        folder: Of all caches.
        maker: What makes the rows, plain data: fingerprint of the weights, precision, recipe.
        dim: D.
    """

    def __init__(self, folder: str | os.PathLike, maker: Mapping[str, Any], dim: int) -> None:
        self.path = Path(folder) / fingerprint_json(maker).removeprefix("sha256:")[:16]
        self.dim = dim

    def rows(self, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
        """Those of the rows that are there: float16 ``[D]`` by key. A part that cannot be read counts as absent."""
        wanted, found = set(keys), {}
        for part in sorted(self.path.glob("part-*.npz")):
            try:
                with np.load(part, allow_pickle=False) as arrays:
                    names, rows_ND = arrays["keys"], arrays["rows"]
            except (OSError, ValueError, KeyError, EOFError):
                continue
            if rows_ND.shape == (len(names), self.dim):
                found.update((key, row) for name, row in zip(names, rows_ND) if (key := name.tobytes()) in wanted)
        return found

    def add(self, rows: Mapping[Key, np.ndarray]) -> None:
        """Write rows as a part of their own."""
        buffer = io.BytesIO()
        np.savez(buffer, keys=np.array([np.frombuffer(key, np.uint8) for key in rows]),
                 rows=np.array(list(rows.values()), np.float16))
        name = fingerprint_json(sorted(key.hex() for key in rows)).removeprefix("sha256:")[:16]
        write_bytes(self.path / f"part-{name}.npz", buffer.getvalue())
