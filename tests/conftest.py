"""Shared by the tests: quiet TensorFlow, small data sets written as files."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
