#!/usr/bin/env python3
"""A few seconds of tests/chaos with a seed of their own: `make chaos` is longer."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "chaos"))
from chaos import chaos  # noqa: E402
from davit import main  # noqa: E402

SECONDS = float(os.environ.get("CHAOS_S", "5"))


def test_random_deaths_of_everything_lose_nothing_double_nothing_and_leave_nothing():
    assert chaos(SECONDS, os.environ.get("SEED", "20261128"), 0.25)


main(globals())
