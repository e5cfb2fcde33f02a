"""Shared by the tests: quiet TensorFlow, small data sets written as files."""

import atexit
import os
import shutil
import signal
import tempfile

# What is remembered of files and fetched photos, in processes of the tests too.
if "FIR_TF_CACHE" not in os.environ:
    os.environ["FIR_TF_CACHE"] = tempfile.mkdtemp(prefix="fir_tf_cache_")
    atexit.register(shutil.rmtree, os.environ["FIR_TF_CACHE"], ignore_errors=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from hypothesis import HealthCheck, settings
from shallow import shallow_backbones
from small_sets import inshop_rows, write_inshop

# Before a test imports TensorFlow: it sets TensorFlow's environment.
from fir_tf import messages

# A busy machine draws slowly.
settings.register_profile("fir_tf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fir_tf")

pytest_plugins = ["browsers", "databases", "listed_skips", "web_server"]

# As the commands do.
messages.show()

# A job in the background of a shell ignores Ctrl-C, and so would all processes that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Leaves out what oneDNN refuses when it is kept from instructions that TensorFlow sees."""
    if not os.environ.get("ONEDNN_MAX_CPU_ISA"):
        return
    skip = pytest.mark.skip(reason="ONEDNN_MAX_CPU_ISA hides bfloat16 from oneDNN alone")
    for item in items:
        if item.get_closest_marker("bfloat16"):
            item.add_marker(skip)


@pytest.fixture
def inshop(tmp_path):
    """A folder in In-Shop's layout with 12 items of 4 photos."""
    return write_inshop(tmp_path / "inshop", inshop_rows())


@pytest.fixture
def shallow():
    """Backbones with one block in each stage for the length of a test."""
    with shallow_backbones():
        yield
