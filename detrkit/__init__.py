"""detrkit: the native substrate for query-based detectors (data, parts, training, evaluation, LazyConfig)."""

from detrkit.torchvision_on_cpu import declare_missing_operators

__version__ = "0.1.0"

declare_missing_operators()
