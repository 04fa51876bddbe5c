"""`python -m medldm` is the command `medldm`."""

import sys

from medldm.cli import main

if __name__ == "__main__":
    sys.exit(main())
