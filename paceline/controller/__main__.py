"""`python -m paceline.controller`: started by the cluster's parent, never by hand."""

from __future__ import annotations

import sys

from paceline.controller.main import main

if __name__ == "__main__":
    sys.exit(main())
