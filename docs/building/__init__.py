"""What builds the documentation site beside mkdocs: hooks, generated references, figures."""
