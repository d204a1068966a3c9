"""Every row of the fault table is proved through the real command, or it is said here where or why not."""

from __future__ import annotations

import re

from cli import (
    test_config_faults,
    test_faults_files,
    test_faults_models,
    test_faults_rows,
    test_faults_runs,
    test_faults_settings,
)

MODULES = (
    test_config_faults,
    test_faults_files,
    test_faults_models,
    test_faults_rows,
    test_faults_runs,
    test_faults_settings,
)
TABLES = (
    test_config_faults.OVERRIDES,
    test_config_faults.RECIPES,
    test_faults_models.DAMAGED,
    test_faults_models.SETTINGS,
    test_faults_models.NAMES,
    test_faults_settings.ALWAYS,
    test_faults_settings.ON_CPU,
)
LAST_ROW = 95

SKIPPED = {
    24: "groups of generations: in unit/methods/test_grpo, where the plan of such a run is made",
    46: "answer columns of rewards: in unit/rewards, where rewards are built for rows",
    47: "grounded rows: no method takes documents",
    81: "the versions stand in the manifest, and nothing is decided by them",
    82: "another number of processes: in test_ranks, where ranks are started",
    84: "a disk too small: in test_full_disk, which needs a file system of its own",
    85: "a disk that fills up: in test_full_disk, which needs a file system of its own",
    88: "memory that runs out: in test_failures, as what torch raises",
    89: "a loss that is no number: in test_train, where a run is trained",
    90: "ranks that die: in test_ranks, where ranks are started",
}


def covered() -> set[int]:
    rows = {case[0] for table in TABLES for case in table}
    rows |= {case.row for module in (test_faults_files, test_faults_rows) for case in module.CASES}
    for module in MODULES:
        for name in vars(module):
            if stated := re.match(r"test_rows?_(\d+)(?:_and_(\d+))?", name):
                rows |= {int(number) for number in stated.groups() if number}
    return rows


def test_no_row_of_the_fault_table_is_forgotten() -> None:
    assert sorted(set(range(1, LAST_ROW + 1)) - covered() - set(SKIPPED)) == []


def test_no_row_is_both_proved_and_skipped() -> None:
    assert covered() & set(SKIPPED) == set()
