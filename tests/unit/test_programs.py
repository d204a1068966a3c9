"""Benchmarks and scripts stand beside the package: what they take from it must be there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    *ROOT.glob("benchmarks/*.py"),
    *(path for path in ROOT.glob("scripts/*") if "python" in path.read_text()[:40]),
]


@pytest.mark.parametrize("program", sorted(PROGRAMS), ids=lambda path: path.name)
def test_what_a_program_imports_is_there(program: Path) -> None:
    found = [
        node for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    wanted = [
        (node.module, name.name)
        for node in found
        if node.module and node.module.startswith("finetune")
        for name in node.names
    ]
    absent = [name for module, name in wanted if not _has(module, name)]
    assert not absent


def _has(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True
