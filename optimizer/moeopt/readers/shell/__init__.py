"""A reader of shell scripts that runs nothing: it follows assignments, arrays, conditions and loops over known values.

No process is started, no file is opened and no variable of this machine's environment is read. What only a run could
tell (a command substitution, a file test, a sourced file) stays unresolved and carries its reason along.
"""

from moeopt.readers.shell.environment import Command, Script
from moeopt.readers.shell.interpreter import interpret

__all__ = ["Command", "Script", "interpret"]
