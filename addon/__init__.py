"""mirrortap: what runs inside mitmproxy, and the engine it drives."""

__version__ = "0.1.0"
