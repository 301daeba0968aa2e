"""The command line, as tests/commands has it."""

from tests.commands.conftest import jobs, refused  # noqa: F401
