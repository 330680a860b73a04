"""A reproducible companion to 'Improved Visual-Spatial Reasoning via R1-Zero-Like Training' (arXiv 2504.00883)."""

__version__ = "0.1.0"

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about an optional kernel at every import
