"""`python -m gateway.workers`: what the supervisor starts; see worker."""

import sys

from gateway.workers.worker import main

sys.exit(main(int(sys.argv[1])))
