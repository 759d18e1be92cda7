"""Any engine behind Amazon Bedrock's own wire protocol: HTTP in, `converse(**request)`, HTTP out."""

from __future__ import annotations


class NotInstalled(ValueError):
    """The server's libraries are not there."""

    exit_code = 2
    fix = "Install them: pip install 'bedrock-bx[serve]'"


def check_installed() -> None:
    """Refuse to go on without the libraries that only the server needs.

    Raises:
        NotInstalled: they are not there.
    """
    from importlib.util import find_spec

    missing = [name for name in ("uvicorn", "prometheus_client", "trustme") if find_spec(name) is None]
    if missing:
        raise NotInstalled(f"bx serve needs libraries that are not installed: {', '.join(missing)}")
