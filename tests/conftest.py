"""Every test process computes as the command line does: matrix products on one thread. Nothing has loaded numpy yet."""

import os

from moeopt.__main__ import BLAS_THREADS

for name in BLAS_THREADS:
    os.environ.setdefault(name, "1")
