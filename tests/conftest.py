import os

from hypothesis import settings

# Tensors in tests are small: a second thread would only wait. Read by torch and FAISS when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no time limit for one: a slow machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
