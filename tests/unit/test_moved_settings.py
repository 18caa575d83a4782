"""What a service asks after its database was moved to another model, and with which key."""

import json

import pytest

from memfast.bootstrap.embedder import adopted, noted
from memfast.cli.main import build_parser
from memfast.cli.reembed import _target
from memfast.config import EmbeddingConfig, load

HERE, THERE = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
NEW = EmbeddingConfig(
    provider="openai", model="m", base_url=THERE, api_key="secret", dimensions=9, send_dimensions=True, batch_size=7
)


def test_a_note_has_no_secret_and_nothing_of_the_manner():
    """It lies in the database, and in its backups."""
    fields = {"provider", "model", "base_url", "dimensions", "send_dimensions", "encoding_format"}
    assert json.loads(noted(NEW)).keys() == fields


def test_a_noted_embedder_is_asked_in_the_configured_manner():
    """What vectors mean is the note's, how they are asked for the configuration's."""
    own = EmbeddingConfig(batch_size=50, timeout_s=3.0, next_api_key="next")
    assert adopted(own, noted(NEW)) == EmbeddingConfig(
        provider="openai",
        model="m",
        base_url=THERE,
        api_key="next",
        next_api_key="next",
        dimensions=9,
        send_dimensions=True,
        batch_size=50,
        timeout_s=3.0,
    )


@pytest.mark.parametrize(("base_url", "key"), [(THERE, "own"), (HERE, "next"), ("", "next")])
def test_no_endpoint_is_given_the_key_of_another(base_url, key):
    """The key of the configured endpoint is for that one alone."""
    own = EmbeddingConfig(provider="openai", base_url=base_url, api_key="own", next_api_key="next", dimensions=3)
    assert adopted(own, noted(NEW)).api_key == key


@pytest.mark.parametrize(("options", "key"), [((), "own"), (("--base-url", THERE), "next")])
def test_the_command_gives_no_endpoint_the_key_of_another(options, key):
    """One that the command line names is not the configured one."""
    arguments = build_parser().parse_args(["reembed", *options])
    flags = {name: value for name, value in vars(arguments).items() if "." in name and value is not None}
    environ = {"MEMFAST_EMBEDDING_API_KEY": "own", "MEMFAST_EMBEDDING_NEXT_API_KEY": "next"}
    assert _target(load(environ, flags=flags), arguments).embedding.api_key == key
