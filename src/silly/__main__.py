"""``python -m silly``: the same as the command ``silly``."""

from __future__ import annotations

import sys

from silly.cli import main

sys.exit(main())
