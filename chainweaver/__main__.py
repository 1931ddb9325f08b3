"""`python -m chainweaver`: the command line, for where the script `chainweaver` is not on the path.

Imported by nobody.
"""

import sys

from chainweaver.cli import main

if __name__ == "__main__":
    sys.exit(main())
