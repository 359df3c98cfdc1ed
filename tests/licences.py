"""The licences of all packages that the project needs, from what pip installed: `python -m tests.licences` writes
docs/dependencies.md."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from constrained_dg.places import ROOT

PAGE = ROOT / "docs" / "dependencies.md"
#: Licences that let anybody use, change and sell the work, as SPDX names them.
PERMISSIVE = {"MIT", "MIT-0", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "ISC", "PSF-2.0", "HPND"}
PERMISSIVE |= {"Python-2.0", "CNRI-Python", "Zlib", "CC0-1.0", "BSL-1.0", "LLVM-exception", "Unicode-3.0", "NCSA"}
PERMISSIVE |= {"Unlicense"}
PERMISSIVE |= {"LicenseRef-Biopython-License-Agreement"}  # terms as of MIT: keep the notice
#: Packages with another licence that may be needed all the same: pattern of names -> why.
EXCEPTIONS = {
    "certifi": "MPL-2.0, a list of certificates that is used unchanged",
    "tqdm": "MPL-2.0 and MIT, used unchanged",
    "pathspec": "MPL-2.0, used unchanged and only to build and to check types",
    "fontpkg-.*": "OFL-1.1, fonts that are used unchanged to draw pictures; none is part of the project",
    "hypothesis": "MPL-2.0, used unchanged and only by tests",
    "(nvidia|cuda)-.*": "libraries of NVIDIA that torch brings on Linux from PyPI, under NVIDIA's licence; the CPU "
    "build of torch needs none of them",
}
#: Words of licence texts and classifiers -> SPDX name, for packages that give no SPDX expression.
_WORDS = {
    r"mozilla|mpl": "MPL-2.0",
    r"apache": "Apache-2.0",
    r"isc": "ISC",
    r"psf|python software foundation": "PSF-2.0",
    r"2-clause": "BSD-2-Clause",
    r"bsd|redistribution and use in source and binary forms": "BSD-3-Clause",
    r"mit\b|permission is hereby granted, free of charge": "MIT",
    r"unlicense": "Unlicense",
}


def groups() -> dict[str, list[Requirement]]:
    """The declared requirements, by extra; "" for those that every installation has, "build" to make a wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {"": project["project"]["dependencies"], **project["project"]["optional-dependencies"]}
    listed["build"] = project["build-system"]["requires"]
    return {extra: [Requirement(text) for text in texts] for extra, texts in listed.items()}


def closure(requirements: list[Requirement]) -> set[str]:
    """The names of installed packages that these need, at any depth; what is not for this system is left out."""
    names: set[str] = set()
    todo = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if name == "constrained-dg" or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        names.add(name)
        for chosen in ["", *requirement.extras]:
            if (name, chosen) not in seen:
                seen.add((name, chosen))
                todo += [(each, chosen) for each in needed]
    return names


def licence_of(name: str) -> str:
    """The licence of an installed package as an SPDX expression, or in the words of its metadata."""
    about = metadata.metadata(name)
    if about.get("License-Expression"):
        return about["License-Expression"]
    classifiers = [
        line.rpartition("::")[2].strip() for line in about.get_all("Classifier", []) if line[:7] == "License"
    ]
    for text in (*classifiers, (about.get("License") or "")[:200]):
        if re.fullmatch(r"[\w.-]+( (AND|OR|WITH) [\w.-]+)+", text):
            return text
        for pattern, spdx in _WORDS.items():
            if re.search(rf"\b({pattern})", text.lower()):
                return spdx
    return "; ".join(classifiers) or (about.get("License") or "unknown").splitlines()[0]


def is_permissive(expression: str) -> bool:
    """Whether a use of the package can follow permissive licences alone: every AND, one side of every OR."""
    if expression in PERMISSIVE:
        return True
    bare = expression.replace("(", " ").replace(")", " ")
    alternatives = [re.split(r"\s+(?:AND|WITH)\s+", each.strip()) for each in re.split(r"\s+OR\s+", bare)]
    if "(" in expression:  # brackets: all that is named, to be safe
        alternatives = [[each for some in alternatives for each in some]]
    return any(all(each.strip() in PERMISSIVE for each in some) for some in alternatives)


def exception_of(name: str) -> str | None:
    """Why a package may be needed although its licence is not permissive; None for all others."""
    return next((why for pattern, why in EXCEPTIONS.items() if re.fullmatch(pattern, name)), None)


def table() -> dict[str, tuple[str, str]]:
    """Package -> licence, and what needs it: "always", or the extras."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for extra, requirements in groups().items():
        for name in closure(requirements):
            rows.setdefault(name, (licence_of(name), []))[1].append(extra)
    return {
        name: (licence, "always" if "" in extras else ", ".join(sorted(extras)))
        for name, (licence, extras) in sorted(rows.items())
    }


def page() -> str:
    """The page of the documentation."""
    lines = [f"| {name} | {licence} | {needed} |" for name, (licence, needed) in table().items()]
    exceptions = [f"- `{pattern}`: {why}." for pattern, why in EXCEPTIONS.items()]
    return "\n".join(
        [
            "# Dependencies and their licences",
            "",
            "All packages that an installation brings, on Linux with the CPU build of torch, and what needs them:",
            "`always`, or an extra (`text`, `transformers`, `serve`, `docs`, `test`), or `build` (to make a wheel).",
            "The command `python -m tests.licences` writes this page; a test fails for a package that is not listed,",
            "and for a licence that is not permissive. Exceptions:",
            "",
            *exceptions,
            "",
            "| package | licence | needed by |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
