"""The `memfast` command.

Exit codes: 0 done · 1 the command failed · 2 wrong usage or configuration · 3 the port is taken · 4 the data directory
is in use · 5 the database cannot be used · 6 the database was filled by another embedding model · 130 ended by Ctrl-C ·
143 ended by SIGTERM. To `serve` both mean a stop in order, and the code is 0.
"""

from memfast.cli.main import main

__all__ = ["main"]
