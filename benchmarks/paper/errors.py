"""What a user can put right."""

from __future__ import annotations


class TrainingError(Exception):
    """A training that cannot start or go on; its message is one line."""
