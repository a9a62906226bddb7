"""`python -m gateway` is `mig-gateway`."""

import sys

from gateway.cli import main

sys.exit(main())
