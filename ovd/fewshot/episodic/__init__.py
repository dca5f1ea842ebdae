"""Few-shot classification over cached embeddings: episodes, heads for all of them at once, and accuracy."""
