"""The studies as a command: python -m studies NAME runs.csv"""

import sys

from .runner import main

if __name__ == '__main__':
    sys.exit(main())
