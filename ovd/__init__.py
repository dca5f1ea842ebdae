"""Open-vocabulary detection with cached CLIP embeddings.

Importing this package makes mmcv usable without its compiled operators (see :mod:`ovd.ops`).
"""

__version__ = "0.1.0"
