"""The scaling study as a command: python -m studies runs.csv"""

import sys

from .scaling import main

if __name__ == '__main__':
    sys.exit(main())
