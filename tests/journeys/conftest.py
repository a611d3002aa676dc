import pytest


@pytest.fixture
def told(shop, call, monkeypatch):
    """What a command line says in the folder of the shop: standard output, standard error."""
    monkeypatch.chdir(shop)

    def told(*words):
        code, *said = call(*words)
        assert code == 0, said
        return said

    return told
