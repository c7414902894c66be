#!/usr/bin/env python3
"""Many short tasks at once: each exit is seen once, with its code, in order. SLOW=1: 1000 of them."""

import concurrent.futures
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, check_log, main  # noqa: E402

TASKS = 1000 if os.environ.get("SLOW") == "1" else 300
AT_A_TIME = 16


def test_tasks_of_a_few_milliseconds_16_at_a_time():
    with Davit() as d:
        d.import_busybox()

        def one(i):
            result = d("run", "--rm", "--null-io", "busybox", "t%d" % i, "sh", "-c", "exit %d" % (i % 100))
            return i, result.returncode, result.stderr

        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            for i, code, text in pool.map(one, range(TASKS)):
                assert code == i % 100, (i, code, text)
        tasks = check_log(d.events())
        assert len(tasks) == TASKS, len(tasks)
        for events in tasks.values():
            assert len(events) == 4, events


main(globals())
