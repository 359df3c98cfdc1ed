"""What the project needs is under permissive licences, and the documentation says so."""

from __future__ import annotations

import re

import pytest

from tests import licences


@pytest.mark.parametrize(
    "expression, good",
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("Apache-2.0 AND MIT", True),
        ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("LGPL-2.1-or-later", False),
        ("MPL-2.0", False),
        ("AGPL-3.0-or-later OR LicenseRef-Proprietary", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_what_counts_as_permissive(expression: str, good: bool) -> None:
    assert licences.is_permissive(expression) is good


def test_every_dependency_is_permissive_or_a_named_exception() -> None:
    needed = licences.table()
    assert {"torch", "numpy", "tqdm", "certifi", "hydra-core", "pytest"} <= set(needed), "the closure is followed"
    bad = {name: licence for name, (licence, _) in needed.items() if not licences.is_permissive(licence)}
    assert {name: licence for name, licence in bad.items() if licences.exception_of(name) is None} == {}


def test_the_documentation_lists_every_dependency_with_its_licence() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (.+) \| .+ \|$", licences.PAGE.read_text(), flags=re.MULTILINE)
    listed = dict(rows)
    assert len(listed) > 50
    differ = {name: licence for name, (licence, _) in licences.table().items() if listed.get(name) != licence}
    differ = {name: licence for name, licence in differ.items() if not licences.exception_of(name)}
    assert differ == {}, "run: python -m tests.licences"
