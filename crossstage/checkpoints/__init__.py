"""Files of weights: read safely, written atomically, renamed from other libraries, cut to some classes."""
