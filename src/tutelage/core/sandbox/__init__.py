"""A sandbox for generated code: a fresh, limited process for each program, and a verdict that printed text cannot forge.

Example::

    from tutelage.core.sandbox import Sandbox

    with Sandbox(workers=2) as box:
        print(box.isolation)
        good = box.run_tests("def double(x): return 2 * x", "assert double(4) == 8")
        bad = box.run_tests("def double(x): return x", "assert double(4) == 8, 'not doubled'")
    print(good.status, bad.status, bad.error)
"""

from tutelage.core.sandbox.limits import ExecResult, Isolation, Limits
from tutelage.core.sandbox.pool import Job, Sandbox, run_program, run_tests

__all__ = ["ExecResult", "Isolation", "Job", "Limits", "Sandbox", "run_program", "run_tests"]
