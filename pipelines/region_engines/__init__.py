"""Engines that spread the shards of a region store over processes."""
