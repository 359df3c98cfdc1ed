"""Samplers on a second kind of device, in a process of their own: registering a device changes torch for good."""

from __future__ import annotations

import re
import subprocess
import sys

from constrained_dg.places import ROOT
from constrained_dg.sampling import sampler_names


def test_samplers_on_a_second_kind_of_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/second_device_checks.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed is not None, done.stdout[-3000:]
    assert int(passed[1]) > len(sampler_names())  # each, and a test of the device
