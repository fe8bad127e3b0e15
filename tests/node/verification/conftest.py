"""The signature backends that run here; what cannot run is skipped, visibly."""

from __future__ import annotations

import pytest

from node.verification.mb8 import library_directories, load_library
from node.verification.select import select_backend
from node.verification.signatures import Backend, BackendUnavailable


@pytest.fixture(scope="session", params=["nacl", "avx512"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "nacl":
        return select_backend("nacl")
    try:
        load_library(library_directories())
    except BackendUnavailable as unavailable:
        pytest.skip(unavailable.message)
    return select_backend("avx512")  # where the library runs, failing the rule is a failure
