"""`python -m chainweaver.cli`, for where the script `chainweaver` is not on the path."""

import sys

from chainweaver.cli import main

if __name__ == "__main__":
    sys.exit(main())
