"""Two small lists of names for `EntitySwap`, grouped so that a name is swapped for one of its own kind. Ours."""

from __future__ import annotations

_NAMES = (
    "Mary Anna Julia Sarah Emma Laura Alice Susan Linda Karen Helen Nancy Betty Carol Diane Fatima Aisha Mei Priya Sofia Elena "
    "Maria Olga Ingrid Chloe Hannah Rachel Rebecca Jessica Jennifer",
    "John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Paul Steven Andrew "
    "Kevin Brian George Peter Omar Ahmed Wei Rahul Carlos Luis Ivan Hans Pierre Jack Tom Bob Jim",
)
_PLACES = (
    "America|Canada|Mexico|Brazil|Argentina|France|Germany|Italy|Spain|Portugal|Poland|Sweden|Norway|Finland|Greece|Turkey|Egypt|"
    "Kenya|Nigeria|India|China|Japan|Korea|Vietnam|Thailand|Australia|England|Scotland|Ireland|Russia|Iran|Iraq|Israel|Pakistan",
    "Paris|London|Berlin|Madrid|Rome|Vienna|Prague|Warsaw|Athens|Cairo|Nairobi|Lagos|Mumbai|Delhi|Beijing|Tokyo|Seoul|Bangkok|"
    "Sydney|Toronto|Montreal|Chicago|Boston|Dallas|Houston|Seattle|Denver|Atlanta|Miami|Detroit|New York|Los Angeles|"
    "San Francisco|Hollywood",
)


def _grouped(lists: tuple[str, ...], separator: str) -> dict[str, tuple[str, ...]]:
    groups = [tuple(one.split(separator)) for one in lists]
    return {name: group for group in groups for name in group}


NAMES = _grouped(_NAMES, " ")
PLACES = _grouped(_PLACES, "|")
