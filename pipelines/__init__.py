"""The offline stages, one module each, and the recipe runner that chains them."""
