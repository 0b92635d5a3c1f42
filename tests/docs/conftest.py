"""A model for the commands of the pages."""

import pytest


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A small model with random weights in the place of a real one."""
    from tiny_encoder import write_encoder  # brings torch, which the checks of commands do not need

    return write_encoder(tmp_path_factory.mktemp("encoder"), ["delete", "folder", "empty", "list", "string", "file"])
