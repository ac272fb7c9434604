"""From a feature pyramid to memory."""
