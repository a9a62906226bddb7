"""`python -m gateway.flowers`: see session."""

import sys

from gateway.flowers.session import main

sys.exit(main())
