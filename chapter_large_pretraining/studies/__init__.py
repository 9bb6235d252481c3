"""Studies, one file each, and the runs that they recorded."""

import sys
from pathlib import Path

# utils.py lies beside the chapter's folder, in which the command is given
if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)
