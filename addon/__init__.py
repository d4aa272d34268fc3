"""mirrortap: what runs inside mitmproxy, and the engine it drives."""
