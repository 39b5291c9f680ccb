"""A process of a server: `python -m ratelimit_service.server.process MODULE PARENT_PID ...` runs `main` of MODULE."""

import sys
from importlib import import_module

from ratelimit_service.importing import without_collector, without_rich

if __name__ == "__main__":
    module = sys.argv.pop(1)
    with without_collector(), without_rich():
        main = import_module(module).main
    main()
