"""What `tutelage audit` is asked for by --threats and --suite together."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.core.errors import InputError, named

STANDARD = "standard"
DEFAULT = "linf@8/255"
KNOWN = (
    "standard (attacks), attributes, corruptions, a family or a name, with severities from 1 to 5 if not all: corruptions@3, "
    "noise@1,3,5, fog"
)


def split_standard(threats: str | None, suites: Sequence[str], shifts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(threats to run, suites but `standard`) of what was given; InputError for an empty list or `standard` twice.

    `standard` is what a budget alone means: where --threats has one, nothing is added to it.
    """
    if suites.count(STANDARD) > 1:
        raise InputError("suite", f"{STANDARD} twice", "each suite once")
    asked = threats if threats is not None else "" if suites or shifts else DEFAULT
    wanted = [part for part in asked.split(",") if part.strip()]
    if threats is not None and not wanted:
        raise InputError("threats", threats, f"at least one threat, such as {DEFAULT}")
    if STANDARD in suites and all(":" in part for part in wanted):
        wanted.append(DEFAULT)
    return wanted, [suite for suite in suites if suite != STANDARD]


def check_corruptions(suites: Sequence[str]) -> None:
    """InputError, in the words of the command line, unless these are corruptions, each once."""
    from tutelage.auditing.corruption import chosen

    for suite in suites:
        try:
            chosen([suite])
        except InputError as error:
            raise InputError("suite", suite, KNOWN) from error
    with named("suite"):
        chosen(suites)
