#!/usr/bin/env python3
"""Something goes wrong at a step of an operation: a few points of each, for every day (tests/points walks them all)."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "points")]
from davit import BIN, main  # noqa: E402
from walk import walk_points  # noqa: E402

POINTS = os.path.join(os.path.dirname(HERE), "points")


def test_a_process_dies_stalls_or_gets_an_error_at_a_step_and_all_is_clean():
    failures = walk_points("--verbose", "--keep-going", "--file", os.path.join(POINTS, "short.txt"))
    assert not failures, failures


def every(kind, n, *operations):
    """A few of --every; tests/points/README.md has the figures of all."""
    failures = walk_points("--verbose", "--keep-going", "--every", kind, "--operations", ",".join(operations),
                           "--point", "davit-image gets", "--trials", str(n))
    assert not failures, failures


def test_memory_runs_out_once_and_all_is_clean():
    every("memory", 10, "snapshot", "listimages", "listcontent")


def test_a_file_operation_fails_once_and_all_is_clean():
    every("file", 8, "commit", "snapshot")


def has_points():
    with open(os.path.join(BIN, "davit-broker"), "rb") as f:
        return b"DAVIT_POINTS" in f.read()


if not has_points():
    print("built without points: make BUILD=... POINTS=1")
    sys.exit(77)
main(globals())
