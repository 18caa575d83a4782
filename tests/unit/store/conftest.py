"""What the tests of the store share: `changes_world`."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("changes_world", Path(__file__).with_name("changes_world.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules["changes_world"] = _module
_spec.loader.exec_module(_module)
