"""A reader of shell scripts that runs nothing: it follows assignments, arrays, conditions and loops over known values.

No process is started and no variable of this machine's environment is read; a sourced file is opened by whoever asks
for the reading, or not at all. What only a run could tell (a command substitution, a file test) stays unresolved and
carries its reason along.
"""

from moeopt.readers.shell.environment import Command, Script
from moeopt.readers.shell.interpreter import Opener, interpret

__all__ = ["Command", "Opener", "Script", "interpret"]
