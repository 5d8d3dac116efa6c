from tests.gateway.conftest import anyio_backend, short

__all__ = ["anyio_backend", "short"]
