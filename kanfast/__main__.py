"""`python -m kanfast`: the command-line program."""

import sys

from kanfast.cli import main

sys.exit(main())
