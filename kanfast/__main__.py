"""`python -m kanfast`: the command-line program."""

import sys

from kanfast.cli.main import main

sys.exit(main())
