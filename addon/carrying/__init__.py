"""Images as files: OCI image layouts and archives, written from the cache and taken into it."""
