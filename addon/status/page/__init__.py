"""The status page: facts as HTML."""
