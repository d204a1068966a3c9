"""Where the files that come with the package lie: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def configs_folder() -> Path:
    """The vocabulary: one folder per group."""
    return _folder("configs")


def recipes_folder() -> Path:
    """The recipes: one folder per outcome."""
    return _folder("recipes")


def _folder(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
