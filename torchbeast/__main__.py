"""`python -m torchbeast` is the `torchbeast` command; torchrun starts modules."""

import sys

from torchbeast.cli import main

sys.exit(main())
