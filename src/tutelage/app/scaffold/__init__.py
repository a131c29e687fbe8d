"""`tutelage init`: a script for the user's own project, filled with what is found there."""

from tutelage.app.scaffold.look import Found, look
from tutelage.app.scaffold.write import KINDS, Scaffold, scaffold

__all__ = ["KINDS", "Found", "Scaffold", "look", "scaffold"]
