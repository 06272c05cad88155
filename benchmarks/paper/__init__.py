"""The paper's experiments: losses, data, scores, networks and training. Needs the extra `paper` (pyproject.toml)."""
