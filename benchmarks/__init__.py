"""Benchmarks of speed and accuracy; `make bench` runs those of speed.

Machines are shared and noisy. Each benchmark therefore prints ratios of alternatives
that take turns in one process, as medians of several rounds.
"""

import importlib.util
import os

if importlib.util.find_spec("tf_keras"):
    # DeepCTR needs the legacy Keras. It has no effect on `import keras`.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
